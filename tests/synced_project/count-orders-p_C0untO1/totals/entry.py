from collections import Counter


def handler(pd: "pipedream"):
    totals = Counter()
    for order in pd.steps["orders"]["$return_value"]:
        totals[order["country"]] += order["cents"]
    pd.export("countries", sorted(totals))
    return dict(totals)
