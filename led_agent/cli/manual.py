"""What help says of a command besides its options: examples that work as they stand, exit codes, variables.

tests/cli/test_help.py parses every example, and runs those that need nothing but the embedded model.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["EXIT_CODES", "PAGES", "Page"]

_PUZZLE = '"Use 3, 20 and 5 to make 35."'
EXIT_CODES = (
    (0, "done"),
    (2, "usage: an option, a file or a setting is at fault"),
    (3, "a model or the machine is at fault"),
    (130, "interrupted"),
)
_SEARCHED = ((0, "verified"), (1, "not verified"), *EXIT_CODES[1:])


@dataclass(frozen=True)
class Page:
    """A command's part of the manual: command lines with what they do, exit codes, variables that it alone reads."""

    examples: tuple[tuple[str, str], ...] = ()
    exit_codes: tuple[tuple[int, str], ...] = ()
    variables: tuple[tuple[str, str], ...] = ()


_FAMILY = (
    ("LED_AGENT_CONFIG", "the settings file, as --config; none reads no file"),
    ("LED_AGENT_CACHE", "the folder for converted models and lenses"),
    ("LED_AGENT_COMMAND_OPTION", "an option of one command, as LED_AGENT_SOLVE_MODEL"),
    ("LED_AGENT_OPTION", "an option of all commands that have it, as LED_AGENT_MODEL"),
)

PAGES = {
    "": Page(
        (
            (f"led-agent solve {_PUZZLE}", "Solve a puzzle with the model that is inside:"),
            ("led-agent help run", "Read how the problems of a file are solved:"),
        ),
        _SEARCHED,
        _FAMILY,
    ),
    "solve": Page(
        (
            (f"led-agent solve {_PUZZLE} --n 12 --all", "Let twelve branches try, and show all of them:"),
            (f"led-agent solve {_PUZZLE} --decoding plain:temperature=0.8 --json", "Sample plainly, for a program:"),
            (f"led-agent solve {_PUZZLE} --strategy self-consistency:n=9", "Take the answer that most of nine give:"),
            (
                'led-agent solve "What is 17 * 23?" --answer 391 --model smollm2',
                "Ask a bigger model, and judge by a reference answer:",
            ),
            (f"led-agent solve {_PUZZLE} --save puzzle.jsonl", "Keep the tree for `led-agent show`:"),
        ),
        _SEARCHED,
    ),
    "run": Page(
        (
            ("led-agent run problems.jsonl --out runs/a", "Solve a file; started again, it goes on where it was:"),
            (
                "led-agent run problems.jsonl --out runs/a --limit 10 --quiet",
                "Try the first ten without a word in between:",
            ),
            ("led-agent run problems.jsonl --out runs/b --cluster 2", "Decode in two processes of this machine:"),
            ("led-agent run problems.jsonl --out runs/1 --shard 1/8", "Do one part of eight:"),
        ),
        (
            (0, "every problem is verified"),
            (1, "one is not verified"),
            (2, "usage, or a line of the file is no problem"),
            *EXIT_CODES[2:],
        ),
    ),
    "serve": Page(
        (
            ("led-agent serve", "Serve the model that is inside, for this machine only:"),
            (
                "led-agent serve --model Qwen/Qwen3-4B-Thinking-2507 -v math_answer",
                "Serve a model of a hub, its answers judged as mathematics:",
            ),
            (
                "led-agent serve --host 0.0.0.0 --api-keys-file keys.txt",
                "Serve other machines, which must give a key:",
            ),
            ("led-agent serve --cluster auto", "Serve from a Ray cluster, through Ray Serve:"),
        ),
    ),
    "eval": Page(
        (
            ("led-agent eval countdown --limit 5 --n 4", "Measure best-of-n on five held-out puzzles:"),
            (
                "led-agent eval countdown --limit 5 --n 4 -S best-of-n -S fallback",
                "Compare two strategies on the same ones:",
            ),
            (
                "led-agent eval problems.jsonl -d led.paper -d plain --out runs/eval",
                "Compare two decodings on a file, resumably:",
            ),
        ),
        ((0, "done, whatever is solved"), (2, "usage, or a line of the file is no problem"), *EXIT_CODES[2:]),
    ),
    "study": Page(
        (
            ("led-agent study exploration --quick --test 4 --samples 4", "See in a minute that it works:"),
            (
                "led-agent study exploration --model ./my-model --problems problems.jsonl --out runs/study",
                "Study a model of your own on problems of your own, resumably:",
            ),
            ("led-agent study cost --test 5 --n 4", "See what a first verified answer costs, on five puzzles:"),
        ),
        ((0, "done, whatever was found"), *EXIT_CODES[1:]),
    ),
    "verify": Page(
        (
            (
                "led-agent verify --problems problems.jsonl --answers answers.jsonl",
                "Judge each answer by what its problem calls for:",
            ),
            (
                "led-agent verify --problems problems.jsonl --answers answers.jsonl -v math_answer --json",
                "Name the verifier, and get the verdicts as JSON:",
            ),
        ),
        (
            (0, "every verdict is accepted"),
            (1, "one is not"),
            (2, "usage, or a line is no answer to a problem"),
            *EXIT_CODES[2:],
        ),
        (("LED_AGENT_JUDGE_API_KEY", "the key for a judge behind an HTTP interface"),),
    ),
    "diagnose": Page(
        (
            ("led-agent diagnose countdown --limit 4", "Measure the model that is inside on four puzzles:"),
            (
                "led-agent diagnose Qwen/Qwen3-4B-Thinking-2507 --plot depths.png",
                "Measure a model of a hub, and draw it:",
            ),
        ),
        ((0, "done, whatever is recommended"), (2, "usage, or a line of the file is no problem"), *EXIT_CODES[2:]),
    ),
    "tune-lens": Page(
        (
            (
                "led-agent tune-lens countdown --limit 8 --samples 1 --steps 20 --out lens.safetensors",
                "See in seconds that it works:",
            ),
            (
                "led-agent tune-lens Qwen/Qwen3-4B-Thinking-2507 --problems problems.jsonl",
                "Make one where --decoding led.paper:norm=tuned finds it:",
            ),
        ),
        ((0, "done, whatever it is worth"), (2, "usage, or a line of the file is no problem"), *EXIT_CODES[2:]),
    ),
    "bench": Page(
        (
            (
                "led-agent bench --branches 2 --prompt 16 --new 8 --rounds 1 --peers none",
                "See in seconds that it works:",
            ),
            ("led-agent bench smollm2 --peers generate", "Compare with transformers' generate alone:"),
        ),
    ),
    "show": Page(
        (
            ("led-agent show puzzle.jsonl", "Print the tree of a saved run:"),
            ("led-agent show puzzle.jsonl --format graphml", "Take it to Gephi or yEd:"),
            ("led-agent show puzzle.jsonl --html puzzle.html", "Write a page to look through it with:"),
        ),
    ),
    "view": Page(
        (
            ("led-agent view runs/a", "Watch a run; the page's address is printed:"),
            ("led-agent view runs/a --open", "Open it in the browser at once:"),
        ),
    ),
    "top": Page(
        (
            ("led-agent top", "Watch the cluster that this machine belongs to:"),
            ("led-agent top ray://head:10001 --once --json", "Look once at another, for a program:"),
        ),
    ),
    "models": Page(
        (
            ("led-agent models", "List them:"),
            ("led-agent models --json", "List them for a program:"),
        ),
    ),
    "doctor": Page(
        (
            ("led-agent doctor", "See what works here:"),
            ("led-agent doctor --json", "Keep it with a bug report:"),
        ),
        ((0, "problems can be solved and judged here"), (2, "usage"), (3, "something that it takes is missing")),
    ),
    "config": Page(
        (
            ("led-agent config solve", "See what `led-agent solve` would go by:"),
            ("led-agent config --path", "See which files are looked at:"),
        ),
        variables=_FAMILY,
    ),
    "completion": Page(
        (
            ("led-agent completion bash", "Print the script for bash:"),
            ("led-agent completion zsh --install", "Install it for zsh:"),
        ),
    ),
    "help": Page(
        (
            ("led-agent help", "List the commands:"),
            ("led-agent help solve", "Read about one:"),
        ),
    ),
}
