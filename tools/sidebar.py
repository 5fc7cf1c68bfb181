"Write nbs/sidebar.yml, the order of the book: for Quarto, and for `make docs` through `book`."
from pathlib import Path

nbs = Path(__file__).resolve().parent.parent/'nbs'
SECTIONS = dict(tutorials='Tutorials', core='Core', data='Data', nn='Networks', ebm='Energy-based models', vae='Autoencoders',
                tokens='Tokens', muons='Muons', studies='Studies', gallery='Gallery', about='About')

def book():
    "(section or None, [notebooks]) in the order of reading, paths relative to nbs/"
    pages = lambda d: [p.relative_to(nbs).as_posix() for p in sorted(d.glob('*.ipynb')) if p.name[0] not in '_.']
    index, *rest = sorted(pages(nbs), key=lambda p: p!='index.ipynb')
    sections = [(t, pages(nbs/d)) for d,t in SECTIONS.items() if (nbs/d).is_dir() and pages(nbs/d)]
    at = sum(t not in ('Gallery', 'About') for t,_ in sections)
    return [(None, [index])] + sections[:at] + ([('Command line', rest)] if rest else []) + sections[at:]

def write():
    out = ['# written by tools/sidebar.py', 'website:', '  sidebar:', '    contents:']
    for title,pages in book():
        if title: out += [f'      - section: {title}', '        contents:']
        out += [f'{"          " if title else "      "}- {p}' for p in pages]
    (nbs/'sidebar.yml').write_text('\n'.join(out) + '\n')

if __name__=='__main__': write()
