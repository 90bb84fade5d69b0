"""Rules between the fields of live runs, of gateways and of personas."""

from ippo_trainer.contract.live import JOURNAL_BYTES, Canary
from ippo_trainer.contract.params import COLDEST, HOTTEST, Model
from ippo_trainer.contract.personas import MAX_EXPLORATION, Persona, Personas

from ippo_operator.api.quantities import amount
from ippo_operator.api.rule import Rule
from ippo_operator.api.run_sections import Gateway


def _has_room(gateway: Gateway) -> bool:
    """Whether a journal may grow as large as it may before its volume is full."""
    volume = gateway.journal_volume
    return volume is None or (amount(volume.storage) or 0) >= gateway.most_waiting


OF_RUNS: tuple[Rule, ...] = (
    Rule(
        "is missing; the gateway of collect.logged asks its servers: give serve: {}, or without vLLM "
        "serve: {engine: Transformers}",
        "has(self.serve) || !has(self.collect.logged)",
        lambda spec: spec.serve is not None or spec.collect.logged is None,
        "serve",
    ),
    Rule(
        "strategy Canary needs collect.logged: an A/B test is decided by what a gateway logs",
        "!has(self.serve) || !has(self.serve.strategy) || self.serve.strategy != 'Canary' || has(self.collect.logged)",
        lambda spec: spec.serve is None or spec.serve.strategy != "Canary" or spec.collect.logged is not None,
        "serve",
        words=lambda spec: "strategy: Canary",
    ),
    Rule(
        "allowed with collect.logged only: without it there is no gateway",
        "!has(self.gateway) || has(self.collect.logged)",
        lambda spec: spec.gateway is None or spec.collect.logged is not None,
        "gateway",
        words=lambda spec: "a section of fields",
    ),
)
OF_COLLECT: tuple[Rule, ...] = (
    Rule(
        "allowed is one of simulate and logged: customers are simulated or real",
        "!has(self.simulate) || !has(self.logged)",
        lambda collect: collect.simulate is None or collect.logged is None,
        "logged",
        words=lambda collect: "both",
    ),
)
_OFF = "has(self.maxExploration) && double(self.maxExploration) == 0.0"
LIVE_RULES: dict[type[Model], tuple[Rule, ...]] = {
    Canary: (
        Rule(
            'allowed is above "0" and below "1": both policies need conversations',
            "!has(self.share) || double(self.share) > 0.0 && double(self.share) < 1.0",
            lambda canary: 0 < float(canary.share) < 1,
            "share",
        ),
        Rule(
            'allowed is above "0" and below "1": a probability of error',
            "!has(self.level) || double(self.level) > 0.0 && double(self.level) < 1.0",
            lambda canary: 0 < float(canary.level) < 1,
            "level",
        ),
        Rule(
            "allowed is at most maxConversations",
            "!has(self.minConversations) || !has(self.maxConversations) || "
            "self.minConversations <= self.maxConversations",
            lambda canary: canary.min_conversations <= canary.max_conversations,
            "min_conversations",
            words=lambda canary: f"{canary.min_conversations} with maxConversations {canary.max_conversations}",
        ),
    ),
    Personas: (
        Rule(
            "allowed is one persona of each name",
            "!has(self.personas) || self.personas.all(one, self.personas.exists_one(other, other.name == one.name))",
            lambda section: len({each.name for each in section.personas or ()}) == len(section.personas or ()),
            "personas",
            words=lambda section: ", ".join(each.name for each in section.personas or ()),
        ),
        Rule(
            f"allowed are shares of at most maxExploration together, {MAX_EXPLORATION} if left out",
            f"!has(self.personas) || {_OFF} || self.personas.map(each, double(each.share)).sum() <= "
            f"(has(self.maxExploration) ? double(self.maxExploration) : {MAX_EXPLORATION}) + 0.000000001",
            lambda section: not section.on or section.listed_share <= section.most_explored + 1e-9,
            "personas",
            words=lambda section: f"shares of {section.listed_share:.12g} together",
        ),
        Rule(
            'allowed is below "1": Q is the policy\'s, so some conversations must be its own',
            "!has(self.maxExploration) || double(self.maxExploration) < 1.0",
            lambda section: section.most_explored < 1,
            "max_exploration",
        ),
    ),
    Gateway: (
        Rule(
            f"allowed is a volume with storage for journalBytes or more, {JOURNAL_BYTES >> 30}Gi if left out",
            "!has(self.journalVolume) || quantity(self.journalVolume.storage).asApproximateFloat() >= "
            f"(has(self.journalBytes) ? double(self.journalBytes) : {JOURNAL_BYTES}.0)",
            _has_room,
            "journal_volume",
            words=lambda gateway: f"storage of {gateway.journal_volume.storage}",
        ),
    ),
    Persona: (
        Rule(
            f'allowed is "{COLDEST:g}" to "{HOTTEST:g}", as every sampler can',
            f"!has(self.temperature) || double(self.temperature) >= {COLDEST} && double(self.temperature) <= {HOTTEST}",
            lambda persona: persona.temperature is None or COLDEST <= float(persona.temperature) <= HOTTEST,
            "temperature",
        ),
    ),
}
"""By model, as in `rules`."""
