"""Rules between the fields of live runs."""

from ippo_trainer.contract.live import Canary, Persona
from ippo_trainer.contract.params import Model

from ippo_operator.api.rule import Rule
from ippo_operator.api.run_sections import MAX_EXPLORATION, Gateway

OF_RUNS: tuple[Rule, ...] = (
    Rule(
        "is missing; the gateway of collect.logged asks its servers. serve: {} is enough where vLLM is known",
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
        "is a gateway's; give collect.logged, too",
        "!has(self.gateway) || has(self.collect.logged)",
        lambda spec: spec.gateway is None or spec.collect.logged is not None,
        "gateway",
        words=lambda spec: "gateway",
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
    Gateway: (
        Rule(
            "allowed is one persona of each name",
            "!has(self.personas) || self.personas.all(one, self.personas.exists_one(other, other.name == one.name))",
            lambda gateway: len({each.name for each in gateway.personas or ()}) == len(gateway.personas or ()),
            "personas",
            words=lambda gateway: ", ".join(each.name for each in gateway.personas or ()),
        ),
        Rule(
            f"allowed are shares of at most maxExploration together, {MAX_EXPLORATION} if left out",
            "!has(self.personas) || self.personas.map(each, double(each.share)).sum() <= "
            f"(has(self.maxExploration) ? double(self.maxExploration) : {MAX_EXPLORATION}) + 0.000000001",
            lambda gateway: gateway.explored <= gateway.most_explored + 1e-9,
            "personas",
            words=lambda gateway: f"shares of {gateway.explored:.12g} together",
        ),
    ),
    Persona: (
        Rule(
            "allowed is at most 2",
            "!has(self.temperature) || double(self.temperature) <= 2.0",
            lambda persona: persona.temperature is None or float(persona.temperature) <= 2,
            "temperature",
        ),
    ),
}
"""By model, as in `rules`."""
