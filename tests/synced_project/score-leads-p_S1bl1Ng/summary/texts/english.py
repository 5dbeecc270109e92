NAME = "The lead"


def greeting():
    return "Good morning"
