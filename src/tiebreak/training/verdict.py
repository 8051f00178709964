"""What a comparison says in plain words: which to use, why, and whether it is worth serving."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tiebreak.training.resampling import Figure

RULES, LINEAR, ENSEMBLE = "rules", "linear", "ensemble"
LEAST_GAP = 0.02  # between mean score and rate that is worth saying


def verdict(report: Mapping[str, Any]) -> dict[str, Any]:
    """Whether the bundled model is worth serving, and the sentences that say so and why."""
    chosen, against = report["bundled"], report["against"]
    by_name = {one["name"]: one for one in report["contenders"]}
    said, is_worth = _against_rules(by_name, chosen, against)
    for one in report["contenders"]:
        if one["kind"] == "served" and one["name"] != chosen:
            said.append(_against_family(one["name"], chosen, against[one["name"]], by_name))
    said += _against_yardsticks(report, against, chosen)
    said += _unequal(report)
    gap = by_name[chosen]["figures"]["score_less_rate"]
    if abs(gap["value"]) >= LEAST_GAP:
        said += _gap(f"Of {chosen} in all", gap)
    said += _slices(report)
    return {"use": chosen if is_worth else RULES, "is_worth_serving": is_worth, "said": said}


def _against_rules(
    by_name: Mapping[str, Any], chosen: str, against: Mapping[str, Figure]
) -> tuple[list[str], bool]:
    figure = _interval(by_name[chosen]["figures"]["pr_auc"])
    if RULES not in against:
        return [f"Use {chosen}: PR-AUC {figure}. There are no rules to compare it with."], True
    gain, rules = against[RULES], _interval(by_name[RULES]["figures"]["pr_auc"])
    if gain["low"] > 0:
        return [
            f"Use {chosen}: PR-AUC {figure}, rules alone {rules}; the gain is "
            f"{_interval(gain)} and not by chance."
        ], True
    why = "worse than" if gain["high"] < 0 else "not to be told from"
    return [
        f"Do not serve a model: {chosen}, PR-AUC {figure}, is {why} the rules alone, {rules}; "
        f"the difference is {_interval(gain)}."
    ], False


def _against_family(name: str, chosen: str, gain: Figure, by_name: Mapping[str, Any]) -> str:
    if gain["low"] > 0:
        return f"{chosen} ranks better than {name}, by {_interval(gain)}."
    if gain["high"] < 0:
        return (
            f"{name} ranks better on these tickets, by {_interval(_negative(gain))}: try "
            f"`--family {name}`."
        )
    costs = {one: by_name[one]["costs"] for one in (name, chosen)}
    cheaper = [
        words
        for key, words in (
            ("score_one_us", "faster"),
            ("explain_batch_us_a_row", "cheaper to explain"),
            ("bytes", "smaller"),
        )
        if costs[name][key] < 0.8 * costs[chosen][key]
    ]
    also = f"; it is {' and '.join(cheaper)}" if cheaper else ""
    return f"{name} is as good within chance, behind by {_interval(gain)}{also}."


def _against_yardsticks(
    report: Mapping[str, Any], against: Mapping[str, Figure], chosen: str
) -> list[str]:
    linear, ensemble = against[LINEAR], against[ENSEMBLE]
    best = next(one["name"] for one in report["contenders"] if one["kind"] == "served")
    instead = f"It cannot be served; of the families that can, {best} ranks best here."
    yardstick = "The linear yardstick"
    if linear["high"] < 0:
        by = _interval(_negative(linear))
        one = f"{yardstick} ranks better by {by}: the trees learn by heart; get more tickets."
    elif linear["low"] > 0:
        one = f"{yardstick} is behind by {_interval(linear)}: the trees are worth their size."
    else:
        one = f"{yardstick} is as good within chance, behind by {_interval(linear)}."
    one = f"{one} {instead}"
    if ensemble["high"] < 0:
        by = _interval(_negative(ensemble))
        other = f"An ensemble of all families ranks better than {chosen} by {by}; none is served."
    else:
        by = _interval(_negative(ensemble))
        other = f"An ensemble of all families does not earn its costs: it is ahead by {by}."
    return [one, other]


def _unequal(report: Mapping[str, Any]) -> list[str]:
    """Who was left out, and who was compared without the search that others had."""
    said = [f"{name} was not compared: {why}." for name, why in report["left_out"].items()]
    searched = report["tuning"]
    judged = [one["name"] for one in report["contenders"] if one["name"] not in (RULES, ENSEMBLE)]
    given = [name for name in judged if name not in searched]
    if searched and given:
        trials = ", ".join(f"{name} by {one['trials']} trials" for name, one in searched.items())
        said.append(
            f"Parameters were searched of {trials}; {', '.join(given)} took them as given and may "
            "do better than is shown."
        )
    return said


def _slices(report: Mapping[str, Any]) -> list[str]:
    """Groups in which more is missed than in all, or whose scores are off, not by chance."""
    by_name = {one["name"]: one for one in report["contenders"]}
    recall = by_name[report["bundled"]]["figures"]["recall"]["value"]
    said: list[str] = []
    for field, parts in report["slices"].items():
        for part in parts:
            figures, name = part["figures"], f"{field} = {part['value']}"
            if figures["recall"]["high"] < recall:
                said.append(
                    f"In {name} fewer bad ends are caught: {_interval(figures['recall'])}, "
                    f"of all {recall:.3f}."
                )
            said += _gap(f"In {name}", figures["score_less_rate"])
    return said


def _gap(where: str, gap: Figure) -> list[str]:
    """Whether scores are off, not by chance."""
    if gap["low"] <= 0 <= gap["high"]:
        return []
    way = "high" if gap["low"] > 0 else "low"
    return [f"{where} scores are too {way}, by {_interval(gap)}: they are no probabilities."]


def _interval(figure: Figure) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def _negative(figure: Figure) -> Figure:
    return Figure(value=-figure["value"], low=-figure["high"], high=-figure["low"])
