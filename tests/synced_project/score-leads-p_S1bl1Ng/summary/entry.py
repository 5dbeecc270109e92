import json
from pathlib import Path

from helper import headline
from texts.english import greeting

from ..lib.shared import join


def handler(pd: "pipedream"):
    colours = json.loads((Path(__file__).parent / "texts" / "colours.json").read_text())
    score = pd.steps["score"]["$return_value"]
    return join(greeting(), headline(score["label"]), colours[score["label"]])
