"""Run the notebooks of docs/notebooks and keep what they give in them.

    python benchmarks/notebooks.py

`tests/test_site.py` runs them again and compares.
"""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "docs/notebooks"


def main() -> None:
    for path in sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(str(path), 4)
        NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
        for cell in notebook.cells:
            cell.metadata.clear()  # times of execution
        notebook.metadata.pop("language_info", None)
        nbformat.write(notebook, str(path))
        print(path.name)


if __name__ == "__main__":
    main()
