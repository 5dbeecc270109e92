import os


def handler(pd: "pipedream"):
    token = pd.inputs["spotify"]["$auth"]["oauth_access_token"]
    return {"day": os.environ["REPORT_DAY"], "signed": bool(token)}
