def handler(pd: "pipedream"):
    return dict(pd.inputs)
