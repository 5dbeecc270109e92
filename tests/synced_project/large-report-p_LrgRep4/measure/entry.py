def handler(pd: "pipedream"):
    return pd.steps["trigger"]["event"]["body"]["megabytes"]
