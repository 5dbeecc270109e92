RATES = {"SE": 25, "NO": 25, "DE": 19}


def handler(pd: "pipedream"):
    order = pd.steps["trigger"]["event"]
    return order["cents"] * (100 + RATES[order["country"]]) // 100
