def handler(pd: "pipedream"):
    pd.export("token_length", len(pd.inputs["slack"]["$auth"]["oauth_access_token"]))
    pd.export("stored", pd.inputs["data_store"]["k"])
