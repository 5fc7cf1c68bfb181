"Tokens on disk: flat memory, other jets in the same folder, streams and their processes, resuming, published files, the command line"
import os, subprocess, sys
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, pytest, torch
from hepebm.cli import main
from hepebm.core.arrays import Arrays
from hepebm.core.training import Task, adam, fit, save_model
from hepebm.data.jetclass import write_jetclass
from hepebm.data.jets import DataError, write_jets
from hepebm.data.samples import sample
from hepebm.nn.gpt import GPT
from hepebm.tokens.generation import JetGPT, Words, jet_gpt, next_and_masked, next_token
from hepebm.tokens.token_files import TokenStream, jet_pieces, read_tokens, token_batches, tokenize, write_tokens
from hepebm.tokens.tokenizer import JetTokenizer, Tokens, jet_tokenizer

root = Path(__file__).resolve().parent.parent

@pytest.fixture(scope='module')
def jets(): return sample('jets', 'train', 700)

def small(seed=0, **kw):
    torch.manual_seed(seed)
    return JetTokenizer('fsq', 512, R=1., width=16, depth=1, heads=2, **{'particles': 40, **kw}).eval()

@pytest.fixture(scope='module')
def tok(): return small()

@pytest.fixture(scope='module')
def folder(jets, tok, tmp_path_factory):
    out = tmp_path_factory.mktemp('words')/'many'
    assert tokenize(tok, [jets[:250], jets[250:]], out, shard=250) == 700
    return out

# ---- memory

MEMORY = '''
import resource, sys, torch
from hepebm.core.arrays import Arrays
from hepebm.data.kinematics import p4
from hepebm.tokens.quantizers import Bins
from hepebm.tokens.token_files import TokenStream, tokenize
from hepebm.tokens.tokenizer import JetTokenizer
out, n, piece = sys.argv[1], int(sys.argv[2]), 5_000
g = torch.Generator().manual_seed(0)
def jets():
    for _ in range(n//piece):
        mask = torch.arange(64)<torch.randint(1, 65, (piece,1), generator=g)
        u = torch.rand(piece, 64, 3, generator=g)
        yield Arrays(p4=torch.where(mask[...,None], p4(1+50*u[...,0]**4, .6*u[...,1]-.3, .6*u[...,2]-.3), 0), mask=mask)
tok = JetTokenizer('bins', quantizer=Bins([torch.linspace(-2, 3, 17), *[torch.linspace(-2.4, 2.4, 23)]*2]), particles=64, R=.8).eval()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e3
def through(pieces, out): return tokenize(tok, pieces, out, shard=250_000), sum(len(b) for b in TokenStream(out, tok).batches(512, shuffle=True, seed=0))
assert through([next(jets())[:1000]], out+'/first')==(1000, 1000)   # loads the libraries, which are no data
before = peak()
assert through(jets(), out+'/all')==(n, n)
print(peak()-before)
'''

def growth(tmp_path, n):
    "Megabytes by which a fresh process grows while it writes and reads tokens of `n` jets; memory that is freed is given back at once"
    (tmp_path/'memory.py').write_text(MEMORY)
    r = subprocess.run([sys.executable, 'memory.py', str(tmp_path/f'{n}'), str(n)], cwd=tmp_path, env=dict(os.environ, PYTHONPATH=str(root), OMP_NUM_THREADS='1', MALLOC_MMAP_THRESHOLD_='131072'), capture_output=True, text=True)
    assert r.returncode==0, r.stderr[-2000:]
    return float(r.stdout)

@pytest.mark.long
def test_a_million_jets(tmp_path):
    "A million jets are encoded, written and streamed in the memory that fifty thousand take"
    few, many = growth(tmp_path, 50_000), growth(tmp_path, 1_000_000)
    assert many<150 and many<few+40, f'{few:.0f} MB for 50,000 jets, {many:.0f} MB for a million'

# ---- many files

def test_other_jets_are_refused(jets, tok, folder, tmp_path):
    "Shards are passed over only for the jets they hold: neither others, nor fewer, nor a part of them, and nothing is written"
    before = {p: p.read_bytes() for p in folder.glob('*')}
    assert tokenize(tok, [jets[:500], jets[500:]], folder, shard=250) == 700
    for other in (jets[350:], jets[:300], jets[torch.arange(699, -1, -1)], jets[:10]):
        with pytest.raises(DataError, match='other jets'): tokenize(tok, [other], folder, shard=250)
    assert {p: p.read_bytes() for p in folder.glob('*')} == before
    with pytest.raises(DataError, match='use the one it was written with'): tokenize(small(1), [jets], folder, shard=250)
    assert tokenize(tok, [jets[:100]], tmp_path/'grows', shard=250) == 100
    assert tokenize(tok, [jets[:400]], tmp_path/'grows', shard=250) == 400
    assert torch.equal(torch.cat([read_tokens(p).jets.jet_pt for p in sorted((tmp_path/'grows').glob('*'))]), tok.encode(jets[:400]).jets.jet_pt)
    with pytest.raises(TypeError): tokenize(tok, [jets], tmp_path/'x', particles=5)

def test_a_shard_is_written_anew(jets, tok, tmp_path):
    "One that was lost comes back with its jets, whatever the size of shards now is"
    out = tmp_path/'many'
    tokenize(tok, [jets[:300]], out, shard=100)
    before = [read_tokens(p).ids for p in sorted(out.glob('*.parquet'))]
    for gone,shard in ((['00001'], 40), (['00000','00001'], 170)):
        for k in gone: (out/f'tokens-{k}.parquet').unlink()
        assert tokenize(tok, [jets[:300]], out, shard=shard)==300
        after = [read_tokens(p).ids for p in sorted(out.glob('*.parquet'))]
        assert [len(v) for v in after]==[100]*3 and all(torch.equal(a, b) for a,b in zip(before, after))

def test_rows_from_anywhere(tok, folder, jets):
    "A range of rows is the same as a cut of all, whatever the groups; small pieces make one group"
    path = sorted(folder.glob('*'))[0]
    whole = read_tokens(path)
    part = [*token_batches(path, 40, start=60, stop=130)]
    assert sum(map(len, part)) == 70 and torch.equal(torch.cat([p.jets.jet_pt for p in part]), whole.jets.jet_pt[60:130])
    write_tokens(folder.parent/'groups.parquet', (whole[i:i+7] for i in range(0, 250, 7)), rows=100)
    f = pq.ParquetFile(folder.parent/'groups.parquet')
    assert f.num_row_groups == 3 and torch.equal(read_tokens(folder.parent/'groups.parquet').ids, whole.ids)
    part = [*token_batches(folder.parent/'groups.parquet', 40, start=90, stop=215)]
    assert torch.equal(torch.cat([p.jets.jet_pt for p in part]), whole.jets.jet_pt[90:215])

def test_jetclass_in_pieces(jets, tok, tmp_path):
    "A file of JetClass is read piece by piece, in its order, and tokenised as jets, not as the features of its reader"
    path = tmp_path/'HToBB_0.parquet'
    write_jetclass(path, jets[:90])
    got = [*jet_pieces(path, 40)]
    assert [len(a) for a in got] == [40, 40, 10] and 'x' not in got[0]
    tokenize(tok, got, tmp_path/'t.parquet')
    assert torch.equal(read_tokens(tmp_path/'t.parquet', tok=tok).ids, tok.encode(jets[:90]).ids)

# ---- streams

@pytest.mark.parametrize('world', [1, 2, 3])
@pytest.mark.parametrize('shuffle', [False, True])
def test_stream_is_even(folder, tok, world, shuffle):
    "All processes have as many batches; together they have all jets but the rest of a division, each once"
    streams = [TokenStream(folder, tok, rank=r, world=world, buffer=100) for r in range(world)]
    seen = [[b.jet_pt for b in s.batches(32, shuffle=shuffle, seed=3)] for s in streams]
    assert len({len(s) for s in seen}) == 1 and {len(s) for s in streams} == {700//world}
    assert all(len(b)==32 for s in seen for b in s[:-1])
    assert len(set(torch.cat([b for s in seen for b in s]).tolist())) == 700//world*world
    assert len({s.fingerprint for s in streams}) == 1
    if world==1 and not shuffle: assert torch.equal(torch.cat(seen[0]), torch.cat([read_tokens(p).jets.jet_pt for p in sorted(folder.glob('*'))]))

def test_stream_writes_sentences_of_an_author(folder, jets, tok):
    "Cut as in `JetGPT.sentences`, full jets included; with continuous inputs from its table"
    torch.manual_seed(0)
    for hybrid in (False, True):
        m = JetGPT(GPT(vocab=Words(512).size, width=16, depth=1, heads=2, length=tok.particles+1, features=3*hybrid, masking=not hybrid), tok)
        m.table.copy_(torch.randn(m.table.shape))
        whole = m.sentences(tok.encode(jets))
        full = tok.encode(jets).mask.sum(1)==tok.particles
        assert full.any() and not (whole.tokens[full]==Words(512).stop).any()
        at = 0
        for b in TokenStream(folder, tok, table=m.table if hybrid else None).batches(100):
            n, s = b.tokens.shape[1], whole[at:at+len(b)]
            assert torch.equal(b.tokens, s.tokens[:,:n]) and torch.equal(b.mask, s.mask[:,:n]) and not s.mask[:,n:].any()
            if hybrid: assert torch.equal(b.x, s.x[:,:n])
            terms = (next_token if hybrid else next_and_masked())(m.gpt, b)
            assert all(v.isfinite() for v in terms.values())
            at += len(b)
        assert at == len(jets)

DDP = '''
import os, sys, torch
from hepebm.core.training import Task, adam, fit
from hepebm.nn.gpt import GPT
from hepebm.tokens.generation import next_token
from hepebm.tokens.token_files import TokenStream
folder, out = sys.argv[1:]
torch.manual_seed(0)
gpt = GPT(vocab=515, length=41, width=16, depth=1, heads=2)
train = TokenStream(folder, particles=40, rank=int(os.environ.get('LOCAL_RANK', 0)), world=2, buffer=100)
for epochs in (1, 2): fit(Task(gpt, next_token, adam(1e-3)), train, epochs=epochs, size=50, out=out, bar=None, accelerator='cpu', devices=2, strategy='ddp')
torch.save(gpt.state_dict(), f'{out}/end{os.environ.get("LOCAL_RANK", 0)}.pt')
'''

@pytest.mark.long
def test_two_processes_read_a_stream(folder, tmp_path):
    "Each reads its half, none waits for a batch that does not come, and both go on from the checkpoint of one"
    (tmp_path/'script.py').write_text(DDP)
    r = subprocess.run([sys.executable, 'script.py', str(folder), str(tmp_path/'out')], cwd=tmp_path, env=dict(os.environ, PYTHONPATH=str(root), IN_TEST='1', OMP_NUM_THREADS='1'), capture_output=True, text=True, timeout=300)
    assert r.returncode==0, r.stderr[-3000:]
    a, b = (torch.load(tmp_path/'out'/f'end{k}.pt') for k in (0,1))
    assert all(torch.equal(a[k], b[k]) for k in a)
    steps = [l.split(',')[0] for l in (tmp_path/'out/log.csv').read_text().split()[1:]]
    assert steps[-1]=='14'   # 350 jets in batches of 50, twice

def test_stream_bad_input(folder, tok):
    for kw,contains in ((dict(rank=2, world=2), 'rank 2'), (dict(rank=5, world=2), 'rank 5'), (dict(rank=-1), 'rank -1')):
        with pytest.raises(ValueError, match=contains): TokenStream(folder, tok, **kw)
    with pytest.raises(ValueError, match='particles='): TokenStream(folder)
    with pytest.raises(FileNotFoundError): TokenStream(folder/'none*', tok)
    with pytest.raises(DataError, match='use the one'): TokenStream(folder, small(1))

# ---- resuming

def test_resume_knows_its_data(jets, tok, folder, tmp_path):
    "Other jets, another tokenizer or other files are other settings; the same are gone on with"
    author = lambda a, tok: jet_gpt(a, tok, width=16, depth=1, heads=2, epochs=1, size=50, out=tmp_path/'gpt', bar=None)
    author(jets[:100], tok)
    author(jets[:100], tok)
    for a,t in ((jets[:100], small(1)), (jets[100:200], tok)):
        with pytest.raises(ValueError, match='other settings: train is Buckets of 100 rows'): author(a, t)
    words = lambda a: jet_tokenizer(a, codes=16, R=1., width=16, depth=1, heads=2, epochs=1, size=50, out=tmp_path/'tok', bar=None)
    words(jets[:100])
    with pytest.raises(ValueError, match='other settings: train is Buckets of 100 rows'): words(jets[100:200])
    def stream(*args, **kw):
        torch.manual_seed(0)
        fit(Task(GPT(vocab=515, length=41, width=16, depth=1, heads=2), next_token, adam(1e-3)), TokenStream(*args, **kw), epochs=1, size=100, out=tmp_path/'stream', bar=None)
    stream(folder, tok)
    stream(folder, tok)
    tokenize(small(1), [jets], tmp_path/'other', shard=250)
    tokenize(tok, [jets[torch.randperm(700)]], tmp_path/'turned', shard=250)
    for args,kw in (((tmp_path/'other', small(1)), {}), ((tmp_path/'turned', tok), {}), ((sorted(folder.glob('*'))[:2], tok), {}), ((folder, tok), dict(particles=9))):
        with pytest.raises(ValueError, match='other settings: train is TokenStream of'): stream(*args, **kw)

# ---- published and damaged files

def test_published_and_damaged_files(tmp_path, tok):
    def file(lists, type=pa.int64(), **more):
        pq.write_table(pa.table(dict(part_token_id=pa.array(lists, pa.list_(type)), **more)), tmp_path/'p.parquet')
        return tmp_path/'p.parquet'
    t = read_tokens(file([[0,3,1,9], [0,9], [0,8,8,1,9], [0,5]], name=['a','b','c','d'], label=[1,2,3,4], when=pa.array([0]*4, pa.timestamp('s'))))
    assert t.codes==8 and t.ids.tolist()==[[2,0,-1], [-1,-1,-1], [7,7,0], [4,-1,-1]] and sorted(t.jets.keys())==['label']
    assert read_tokens(file([[0,3,1,9], [0,2,9,0,0]])).ids.tolist()==[[2,0], [1,-1]]   # padded with zeros
    for lists,contains in (([[0,300,2,7]], 'stop word'), ([[0,2,7],[0,300,7]], 'no stop words'), ([[0,2,7],[0,7,3]], 'goes on after 7'), ([[0,5,5]], 'stop word'), ([[0]], 'stop word'), ([[]], 'start word'), ([[4,5]], 'start word'), ([], 'empty')):
        with pytest.raises(DataError, match=contains): read_tokens(file(lists))
    with pytest.raises(DataError, match='of 8 codes'): read_tokens(file([[0,3,9]]), tok=tok)
    pq.write_table(pa.table(dict(names=pa.array([['a','b']]))), tmp_path/'s.parquet')
    with pytest.raises(DataError, match='lists of integers'): read_tokens(tmp_path/'s.parquet')
    with pytest.raises(ValueError, match='no tokens to write'): write_tokens(tmp_path/'none.parquet', [])
    assert not (tmp_path/'none.parquet').exists()

# ---- the command line

def test_command_line(jets, tok, tmp_path, capsys):
    "Another file into a folder of shards, an extended model on jets without tracks: one line, no traceback"
    torch.manual_seed(0)
    for name,m in (('plain', tok), ('extended', JetTokenizer('fsq', 512, R=1., width=16, depth=1, heads=2, extended=True))): save_model(tmp_path/name, m)
    for k,part in (('a', jets[:60]), ('b', jets[60:120])): write_jets(tmp_path/f'{k}.h5', Arrays(p4=part.p4, mask=part.mask))
    def said(model, file, out):
        code = main(['tokenize', str(tmp_path/model), str(tmp_path/file), '-o', str(tmp_path/out), '--shard', '25'])
        return code, capsys.readouterr()
    code, words = said('plain', 'a.h5', 'words')
    assert code==0 and '60 jets' in words.out and len([*(tmp_path/'words').glob('*')])==3
    assert said('plain', 'a.h5', 'words')[0]==0
    for args,contains in ((('plain', 'b.h5', 'words'), 'other jets'), (('extended', 'a.h5', 'x'), 'no pid, charge, d0, dz')):
        code, words = said(*args)
        assert code==2 and contains in words.err and words.err.count('\n')==1
    write_jets(tmp_path/'full.parquet', jets[:30])
    assert said('extended', 'full.parquet', 'y.parquet')[0]==0
