"""The page of external users."""

from __future__ import annotations

from pdkernel.server.console import users
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
    """Each user of an environment has their accounts there, without credentials, and the readiness of each workflow."""
    console = await with_users(serve)
    page = await console.page("/-/users")
    lines = (await console.http.get("/-/users", headers=JSON)).json()
    production = (await console.http.get("/-/users?environment=production", headers=JSON)).json()

    assert [(line["external_user"], [each["app"] for each in line["accounts"]]) for line in lines] == [
        ("ada", ["slack"]),
        ("bob", ["github"]),
    ]
    assert [[(each["workflow"], each["readiness"]["state"]) for each in line["workflows"]] for line in lines] == [
        [("Greet", "ready"), ("Post", "ready")],
        [("Greet", "ready"), ("Post", "error")],
    ]
    assert lines[1]["workflows"][1]["readiness"]["error"]["message"].startswith("Pipedream Connect Error: ")
    assert [(line["external_user"], [each["app"] for each in line["accounts"]]) for line in production] == [
        ("bob", ["slack"]),
        ("eve", ["slack"]),
    ]
    assert "Ada&#39;s" in page
    assert "✗ no Slack" in page
    assert SECRET not in page + str(lines)


async def test_one_user(serve: Serve) -> None:
    """A user of an environment is found by their id, around which blanks do not count; the page says if there is none."""
    console = await with_users(serve)
    queries = ("external_user=%20bob%20", "external_user=eve&environment=production")
    found = [(await console.http.get(f"/-/users?{query}", headers=JSON)).json() for query in queries]
    none = await console.page("/-/users?external_user=eve")

    assert [[line["external_user"] for line in lines] for lines in found] == [["bob"], ["eve"]]
    assert "There is no such external user in development." in none


async def test_many_users(serve: Serve) -> None:
    """A page has a limited number of users, and reports that there are more."""
    console = await serve(GREET)
    for number in range(users.MAX_USERS + 1):
        console.site.directory.add_account(app="x", credentials={"k": "v"}, external_user_id=f"user-{number:03d}")
    page = await console.page("/-/users")

    assert f"These are the first {users.MAX_USERS} users." in page
    assert f"user-{users.MAX_USERS - 1:03d}" in page
    assert f"user-{users.MAX_USERS:03d}" not in page
