"""Write every recipe of ``tables.yaml``; what is as it should be is left alone.

python -m benchmarks.recipes
"""

from __future__ import annotations

from benchmarks.recipes.make import ROOT, recipes


def main() -> None:
    """Write, say what changed, and name the files that no row of the table makes."""
    made = recipes()
    for name, text in made.items():
        path = ROOT / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(f"wrote {name}")
    for path in sorted((ROOT / "recipes").rglob("*.yaml")):
        if (name := path.relative_to(ROOT).as_posix()) not in made:
            print(f"{name} stands in no row of the table: remove it")


if __name__ == "__main__":
    main()
