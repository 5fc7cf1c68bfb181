"Give every notebook its Colab badge and install cell, from `colab_install` and `repository` in settings.ini, and the book its sidebar; idempotent."
import configparser, json, re
from pathlib import Path
import sidebar

root = Path(__file__).resolve().parent.parent
cfg = configparser.ConfigParser(delimiters=['='], interpolation=None)
cfg.read(root/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']

def lines(s): return s.splitlines(keepends=True)
def badge(path): return f'[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/{cfg["repository"].split("github.com/")[1]}/blob/main/{path})'
INSTALL = f'#| hide\n#| eval: false\n# On Colab: install hepebm; the torch and numpy that are there stay\n%pip install -q "{cfg["colab_install"]}"'

def dress(path):
    "Notebook with badge and install cell after its title (in cells of their own: the docs turn the title's cell into metadata); True if it changed"
    nb = json.loads(path.read_text())
    before = json.dumps(nb)
    cells = [c for c in nb['cells'] if not c.get('id','').startswith('colab-')]
    i = next(i for i,c in enumerate(cells) if c['cell_type']=='markdown' and ''.join(c['source']).startswith('# '))
    src = re.sub(r'\n*\[!\[Open in Colab\].*', '', ''.join(cells[i]['source'])).rstrip()
    cells[i]['source'] = lines(src)
    cells[i+1:i+1] = [dict(cell_type='markdown', id='colab-badge', metadata={}, source=[badge(path.relative_to(root).as_posix())]),
                      dict(cell_type='code', execution_count=None, id='colab-install', metadata={}, outputs=[], source=lines(INSTALL))]
    nb['cells'] = cells
    if json.dumps(nb) == before: return False
    path.write_text(json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True)+'\n')
    return True

for p in sorted((root/'nbs').rglob('*.ipynb')):
    if '.ipynb_checkpoints' not in p.parts and dress(p): print(f'{p.relative_to(root)}: badge and install cell written')
sidebar.write()
