def handler(pd: "pipedream"):
    report = pd.steps["trigger"]["event"]["body"]["report"]
    return {
        "id": report["id"],
        "customer": report["email"],
        "title": report["title"],
    }
