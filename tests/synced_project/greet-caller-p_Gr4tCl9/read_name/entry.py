def handler(pd: "pipedream"):
    event = pd.steps["trigger"]["event"]
    name = event.get("query", {}).get("name") or (event.get("body") or {}).get("name")
    return {"name": (name or "stranger").strip()}
