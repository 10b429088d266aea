#!/usr/bin/env python3
"""Draws what a program wrote to a terminal as SVG, text stays text: picture.py TITLE < ANSI > SVG."""
import html
import itertools
import re
import sys

WIDTH, LINE, LEFT, TOP, COLUMNS = 8.43, 19, 16, 50, 106
COLOURS = {31: "#ff7b72", 32: "#7ee787", 33: "#e3b341", 34: "#79c0ff", 35: "#d2a8ff", 36: "#76e3ea", 90: "#8b949e"}

DIM = COLOURS[90]


def cells(line):
    """Every character of a line with its colour, boldness and dimness."""
    style, at = (None, False, False), 0
    for match in re.finditer(r"\x1b\[([0-9;]*)m|(.)", line):
        if match[2]:
            yield match[2], style
            continue
        for code in (int(c or 0) for c in match[1].split(";")):
            colour, bold, dim = style
            if code == 0:
                style = (None, False, False)
            elif code in (1, 2, 22):
                style = (colour, code == 1 or bold and code != 22, code == 2 or dim and code != 22)
            elif code == 39:
                style = (None, bold, dim)
            elif code in COLOURS or code - 60 in COLOURS:
                style = (COLOURS.get(code) or COLOURS[code - 60], bold, dim)


def rows(text):
    """The lines, long ones broken, at words where there are any."""
    for line in text.split("\n"):
        row = list(cells(line))
        while len(row) > COLUMNS:
            spaces = [at for at in range(COLUMNS - 30, COLUMNS) if row[at][0] == " "]
            cut = spaces[-1] + 1 if spaces else COLUMNS
            yield row[:cut]
            row = row[cut:]
        yield row


def drawn(row):
    """One row as text with spans."""
    out = []
    for style, group in itertools.groupby(row, key=lambda cell: cell[1]):
        colour, bold, dim = style
        colour = colour or (DIM if dim else None)
        marks = (f' fill="{colour}"' if colour else "") + (' font-weight="bold"' if bold else "")
        piece = html.escape("".join(c for c, _ in group), quote=False)
        out.append(f"<tspan{marks}>{piece}</tspan>" if marks else piece)
    return "".join(out)


def main():
    title = sys.argv[1]
    # Nothing but colours may come from the program.
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-ln-z]|[\x00-\x08\x0b-\x1a\x7f]", "", sys.stdin.read())
    lines = list(rows(text.strip("\n")))
    width = round(max(map(len, lines)) * WIDTH + 2 * LEFT)
    height = TOP + LINE * len(lines) + 2
    print(f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img">')
    print(f"<title>{html.escape(title)}</title>")
    print(f'<rect width="{width}" height="{height}" rx="8" fill="#0d1117"/>')
    print(f'<text x="{width / 2:g}" y="22" text-anchor="middle" font-family="sans-serif" font-size="13" fill="#8b949e">{html.escape(title)}</text>')
    print('<g font-family="ui-monospace,DejaVu Sans Mono,Menlo,monospace" font-size="14" fill="#e6edf3" xml:space="preserve">')
    for at, row in enumerate(lines):
        if row:
            print(f'<text x="{LEFT}" y="{TOP + LINE * at}">{drawn(row)}</text>')
    print("</g>\n</svg>")


main()
