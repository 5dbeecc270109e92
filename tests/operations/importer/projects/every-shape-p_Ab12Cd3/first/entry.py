# pipedream add-package requests==2.31.0
import os

import requests


def handler(pd: "pipedream"):
    token = pd.inputs["music"]["$auth"]["oauth_access_token"]
    pd.export("region", os.environ["REGION"])
    return {"count": len(requests.get("https://example.com", headers={"Authorization": f"Bearer {token}"}).json())}
