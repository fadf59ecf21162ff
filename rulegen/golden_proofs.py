"""Golden scenarios, proved: a scenario comes in, what its rules do otherwise than its objects mean goes out.

The rules are those that the scenario renders, of both targets; nft loads them in a network namespace of its own. Writes
no file.
"""

from __future__ import annotations

from rulegen import golden
from rulegen.config import Target
from rulegen.verify import questions, report, rulesets


def prove(scenario: golden.Scenario) -> golden.Difference:
    """A case for each target; of one that fails, all that there is to say stands among the lines of the rulesets.

    Of a scenario with a feature that nothing is known of nothing is proved, which is said and is no difference. Raises
    HostError where no ruleset can be loaded.
    """
    cases: list[golden.Case] = []
    said: list[str] = []
    path = scenario.folder / golden.CLUSTER_FILE
    unknown = questions.not_proved(scenario.features)
    if unknown:
        return golden.Difference((), tuple(f"{scenario.folder}: {line}\n" for line in unknown))
    for target in Target:
        rules = rulesets.read_text(golden.render(scenario, target), f"{scenario.folder} on {target.value}")
        found = questions.against_objects(
            rules, scenario.store, scenario.configuration, scenario.addresses, features=scenario.features
        )
        name = f"proof on {target.value}"
        failures: tuple[golden.Failure, ...] = ()
        if found.status:
            result = "rules that do something else" if found.status == 1 else "rules of which it cannot be told"
            failures = (golden.Failure(path, 1, name, "rules that do what the objects mean", result, ""),)
            said += report.lines(found)
        cases.append(golden.Case(name, path, 1, failures))
    return golden.Difference(tuple(cases), tuple(said))
