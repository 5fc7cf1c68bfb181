"Write the table of graphs in EnergyFlow's order (hepebm/nn/graphs.xz): needs energyflow, whose list of multigraphs with at most 10 edges it reads."
import lzma, sys
from pathlib import Path
from energyflow.utils import load_efp_file

f = load_efp_file('default')
prime = [' '.join(f'{u:x}{v:x}{w if w>1 else ""}' for (u,v),w in zip(edges,weights)) for edges,weights in zip(f['edges'],f['weights'])]
index = {(s[0],s[2],s[4]): i for i,s in enumerate(f['c_specs'])}
composite = [' '.join(str(index[tuple(part)]) for part in parts) for parts in f['disc_formulae']]
out = Path(sys.argv[1] if len(sys.argv)>1 else Path(__file__).resolve().parent.parent/'hepebm/nn/graphs.xz')
out.write_bytes(lzma.compress(('\n'.join(prime)+'\n\n'+'\n'.join(composite)).encode(), preset=9))
print(f'{out}: {len(prime)} connected graphs, {len(composite)} products, {out.stat().st_size} bytes')
