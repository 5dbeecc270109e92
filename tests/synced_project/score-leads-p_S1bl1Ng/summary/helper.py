from texts import english


def headline(label):
    return f"{english.NAME} is {label}"
