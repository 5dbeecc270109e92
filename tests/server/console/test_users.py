"""The page of external users."""

from __future__ import annotations

from pdkernel.common.identity import MAX_FOUND_USERS
from tests.builders import a_workflow, python_step
from tests.server.console.conftest import JSON, Console, Serve

SLACK = a_workflow(python_step("post", options="--app slack"), name="Post")
GREET = a_workflow(python_step("greet"), name="Greet")
SECRET = "xoxb-a-secret-of-ada"


async def with_users(serve: Serve) -> Console:
    """A console whose project has ada and bob in development, and bob and eve in production."""
    console = await serve(GREET, SLACK)
    directory = console.site.directory
    directory.add_account(app="slack", credentials={"oauth_access_token": SECRET}, external_user_id="ada", name="Ada's")
    directory.add_account(app="github", credentials={"oauth_access_token": SECRET}, external_user_id="bob")
    for user in ("bob", "eve"):
        directory.add_account(
            app="slack", credentials={"oauth_access_token": SECRET}, external_user_id=user, environment="production"
        )
    return console


async def test_users(serve: Serve) -> None:
    """Each user of an environment, the newest first, has their accounts there, without credentials, and the readiness of each workflow."""
    console = await with_users(serve)
    page = await console.page("/-/users")
    lines = (await console.http.get("/-/users", headers=JSON)).json()
    production = (await console.http.get("/-/users?environment=production", headers=JSON)).json()

    assert [(line["external_user"], [each["app"] for each in line["accounts"]]) for line in lines] == [
        ("bob", ["github"]),
        ("ada", ["slack"]),
    ]
    assert [[(each["workflow"], each["readiness"]["state"]) for each in line["workflows"]] for line in lines] == [
        [("Greet", "ready"), ("Post", "error")],
        [("Greet", "ready"), ("Post", "ready")],
    ]
    assert lines[0]["workflows"][1]["readiness"]["error"]["message"].startswith("Pipedream Connect Error: ")
    assert [(line["external_user"], [each["app"] for each in line["accounts"]]) for line in production] == [
        ("eve", ["slack"]),
        ("bob", ["slack"]),
    ]
    assert "Ada&#39;s" in page
    assert "✗ missing Slack" in page
    assert SECRET not in page + str(lines)


async def test_one_user(serve: Serve) -> None:
    """A user of an environment is found by their id, around which blanks do not count; the page says if there is none."""
    console = await with_users(serve)
    queries = ("external_user=%20bob%20", "external_user=eve&environment=production")
    found = [(await console.http.get(f"/-/users?{query}", headers=JSON)).json() for query in queries]
    none = await console.page("/-/users?external_user=eve")

    assert [[line["external_user"] for line in lines] for lines in found] == [["bob"], ["eve"]]
    assert "There is no such external user in development." in none


async def test_search(serve: Serve) -> None:
    """A text finds users by a part of their id or of an account's name; the page says if there is none."""
    console = await with_users(serve)
    queries = ("search=AD", "search=%20bo%20", "search=da%27s", "search=%25")
    found = [(await console.http.get(f"/-/users?{query}", headers=JSON)).json() for query in queries]
    none = await console.page("/-/users?search=nobody")

    assert [[line["external_user"] for line in lines] for lines in found] == [["ada"], ["bob"], ["ada"], []]
    assert "There is no such external user in development." in none
    assert 'value="nobody"' in none


async def test_a_failure_of_today(serve: Serve) -> None:
    """A user with a run that failed today has a mark, which leads to the run; a run of the other environment does not count."""
    console = await with_users(serve)
    headers = {"x-pd-external-user-id": "bob", "x-pd-environment": "development"}
    run_id = await console.start(name="Post", **headers)
    await console.wait_until(run_id, "error")
    page = await console.page("/-/users?search=bob")
    lines = (await console.http.get("/-/users", headers=JSON)).json()
    production = (await console.http.get("/-/users?environment=production", headers=JSON)).json()

    assert {line["external_user"]: line["failed_run"] for line in lines} == {"bob": run_id, "ada": None}
    assert {line["failed_run"] for line in production} == {None}
    assert f'href="/-/runs/{run_id}"><span class="status bad">✗ failed today' in page


async def test_many_users(serve: Serve) -> None:
    """A page has a limited number of users, the most recently active, and reports how many others there are."""
    console = await serve(GREET)
    for number in range(MAX_FOUND_USERS + 3):
        console.site.connect(f"user-{number:03d}", "x", {"k": "v"})
    page = await console.page("/-/users")
    found = await console.page("/-/users?search=user")

    assert f"The {MAX_FOUND_USERS} most recently active users. 3 more: search to find them." in page
    assert "most recently active users that match. 3 more: write a longer text" in found
    assert [f"user-{number:03d}" in page for number in (0, 2, 3, MAX_FOUND_USERS + 2)] == [False, False, True, True]
