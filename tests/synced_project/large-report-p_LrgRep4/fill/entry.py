import time


def handler(pd: "pipedream"):
    pages = [b"x" * (1 << 20) for _ in range(pd.steps["measure"]["$return_value"])]
    if len(pages) > 256:
        time.sleep(20)
    return len(pages)
