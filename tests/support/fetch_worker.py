"""A process that fetches a library entry of a test, for tests with two at once: FETCH_ENTRY holds the entry as JSON."""

import os
import sys

import msgspec

from paceline.engine.store import catalog, resolve


def main() -> None:
    entry = msgspec.json.decode(os.environ["FETCH_ENTRY"], type=catalog.Entry)
    catalog.entries = lambda: (entry,)  # pyright: ignore[reportAttributeAccessIssue]
    phases: list[str] = []
    located = resolve.locate(entry.name, progress=lambda p: phases.append(p.phase))
    sys.stdout.write(f"{located.files[0]} {','.join(dict.fromkeys(phases))}\n")


if __name__ == "__main__":
    main()
