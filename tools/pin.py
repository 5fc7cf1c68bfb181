"pin.py PYTHON...: resolve every extra on each of these Pythons and write what they agree on, by marker, to constraints.txt"
import configparser, json, re, subprocess, sys, tempfile
from pathlib import Path

root = Path(__file__).resolve().parent.parent
DASHES = '# --- resolved\n'
cfg = configparser.ConfigParser(delimiters=['='], interpolation=None)
cfg.read(root/'settings.ini', encoding='utf-8')
wanted = [r for k,v in cfg['DEFAULT'].items() if k.endswith('requirements') for r in v.split()]
ours = re.compile('nvidia-|cuda-|triton|torch$|pip$|setuptools$')   # the build of torch decides on these; torch itself is chosen

def resolve(python, chosen):
    "(major, minor) of `python` and {name: version} of what pip would install there"
    with tempfile.TemporaryDirectory() as tmp:
        (c := Path(tmp)/'c.txt').write_text(chosen)
        subprocess.run([python, '-m', 'pip', 'install', '-q', '--dry-run', '--ignore-installed', '-c', c, '--report', f'{tmp}/r.json', *wanted], check=True)
        report = json.loads(Path(f'{tmp}/r.json').read_text())
    found = {re.sub('[-_.]+', '-', m['name']).lower(): m['version'] for m in (i['metadata'] for i in report['install'])}
    return tuple(map(int, report['environment']['python_version'].split('.'))), {k: v for k,v in found.items() if not ours.match(k)}

def lines(name, by):
    "Pins of one package; `by` lists (python, version or None) in order of the Pythons"
    versions = [v for _,v in by]
    if len({v for v in versions if v}) == 1: yield f'{name}=={next(filter(None, versions))}'; return
    starts = [i for i,v in enumerate(versions) if i==0 or v!=versions[i-1]]
    for a,b in zip(starts, starts[1:]+[None]):
        marks = ([f"python_version>='{by[a][0]}'"] if a else []) + ([f"python_version<'{by[b][0]}'"] if b else [])
        if versions[a]: yield f'{name}=={versions[a]};{" and ".join(marks)}'

path = root/'constraints.txt'
chosen = path.read_text().split(DASHES)[0]
fixed = {l.split(';')[0] for l in chosen.splitlines()}
found = dict(sorted(resolve(p, chosen) for p in sys.argv[1:]))
pins = [l for n in sorted(set().union(*found.values())) for l in lines(n, [('.'.join(map(str, v)), d.get(n)) for v,d in found.items()])
        if l.split(';')[0] not in fixed]
path.write_text(chosen + DASHES + '\n'.join(pins) + '\n')
print(f'{len(pins)} pins for Python {", ".join(".".join(map(str, v)) for v in found)}')
