"""`ippo chat`: talk to the policy of a live run."""

from argparse import ArgumentParser

from ippo_operator.cli.parsing import Verb

KEY = "IPPO_GATEWAY_KEY"
ABOUT = f"""\
Holds a conversation through the gateway of a run that learns from live conversations. It is logged like any other, in
the group `chat`, and the run learns from it.

As the customer you write, and what the policy suggests is sent as it is. As the business you write or paste what a
customer says, see the suggestion, and accept, edit or reject it. In the end you say what came of it: an empty line, or
the end of the input, ends a conversation.

A folder is that of a run which `ippo run` is at work on. For a run in a cluster give --url; a gateway with keys gets
the one in ${KEY}.
"""
EXAMPLES = """\
examples:
  ippo chat runs/shop
  ippo chat runs/shop --as business
  kubectl port-forward service/shop-gateway 8080 &
  ippo chat --url http://localhost:8080 --as business
"""
VERB = Verb("chat", __name__, "talk to the policy of a live run, as the customer or as the business", ABOUT, EXAMPLES)


def add_arguments(parser: ArgumentParser) -> None:
    """What it takes."""
    parser.add_argument("run", nargs="?", metavar="DIR", help="the run's folder")
    parser.add_argument("--url", help="of the gateway, in place of a folder")
    parser.add_argument(
        "--as", dest="role", choices=("customer", "business"), default="customer", help="(default: customer)"
    )
    parser.add_argument("--conversation", metavar="ID", help="its id; made if left out")
    parser.add_argument("--customer", metavar="ID", default="", help="whose it is, for outcomes that name a customer")
