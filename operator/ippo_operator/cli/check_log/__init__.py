"""`ippo check-log`: what a chat log holds, and all that is wrong with it."""

from argparse import ArgumentParser

from ippo_operator.cli.parsing import Verb

ABOUT = """\
Reads a chat log to its end, before a run is started from it: all that is wrong, with counts and the first lines;
conversations, outcomes and where they come in the conversation; writers, duplicates, what is left out and why; how many
conversations Q will need. With --base the lengths of texts in its tokens, and the limits that they suggest. With
--policy how likely it finds what the writers wrote (give a log that it did not learn from), and whether it knows
alternatives.

Any size: 3 GB take a few minutes. docs/chat-logs.md has the formats. Exit code 65 if something is wrong.
"""
EXAMPLES = """\
examples:
  ippo check-log chats.jsonl
  ippo check-log chats.jsonl.gz --outcomes orders.csv --window 14d
  ippo check-log s3://shop/chats.parquet --base /models/smollm2 --json
  ippo check-log newer.jsonl --policy /shop/tea/policy --html log.html
  ippo check-log s3://shop/served/ --reactions orders.jsonl --outcomes orders.jsonl
"""
VERB = Verb("check-log", __name__, "check a chat log before a run learns from it", ABOUT, EXAMPLES)


def add_arguments(parser: ArgumentParser) -> None:
    """What it takes."""
    parser.add_argument(
        "log", metavar="LOG", help="a file, a folder that servers logged into, or a file:// or s3:// address"
    )
    parser.add_argument("--reactions", metavar="FILE", help="of a folder, as collect.history.reactions")
    parser.add_argument(
        "--outcomes", metavar="FILE", help="outcomes in a file of their own, as collect.history.outcomes"
    )
    parser.add_argument("--window", metavar="TIME", help="as collect.history.window, e.g. 14d, 36h, 30m")
    parser.add_argument("--base", metavar="DIR", help="folder of a model whose tokenizer measures lengths")
    parser.add_argument("--system-prompt", default="", metavar="TEXT", help="as policy.systemPrompt, with --base")
    parser.add_argument(
        "--policy", metavar="DIR", help="folder of a policy, as the warm start makes it, to compare with the writers"
    )
    parser.add_argument("--html", metavar="FILE", help="writes a page of the same, too")
    parser.add_argument("--json", action="store_true", help="for programs")
