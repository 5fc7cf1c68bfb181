"Authors of jets: what they are asked for in vain, what is hidden, weights, and losses in several processes"
import math, os, subprocess, sys
from pathlib import Path
import pytest, torch
from hepebm.core.arrays import Arrays
from hepebm.data.samples import sample
from hepebm.nn.gpt import GPT
from hepebm.tokens.generation import JetGPT, generate_jets, jet_gpt, next_and_masked, next_token, rerank
from hepebm.tokens.tokenizer import JetTokenizer

root = Path(__file__).resolve().parent.parent

@pytest.fixture(scope='module')
def jets(): return sample('jets', 'train', 400)

@pytest.fixture(scope='module')
def tok():
    torch.manual_seed(0)
    return JetTokenizer('fsq', 512, R=1., width=16, depth=1, heads=2, particles=64).eval()

def author(tok, **kw):
    torch.manual_seed(1)
    return JetGPT(GPT(**dict(vocab=tok.codes+3, width=16, depth=1, heads=2, length=tok.particles+1) | kw), tok).eval()

def test_labels_out_of_range(tok, jets):
    "A class that the network does not know is told before any network sees it"
    m = author(tok, classes=2)
    for label in (2, -1, [0,1,2], torch.tensor([0,0,7])):
        with pytest.raises(ValueError, match='0 to 1'): m.sample(3, label=label)
        with pytest.raises(ValueError, match='0 to 1'): m.log_prob(jets[:3], label)
    with pytest.raises(ValueError, match='whole numbers'): m.sample(3, label=.5)
    with pytest.raises(ValueError, match='no classes'): author(tok).log_prob(jets[:3], 1)
    with pytest.raises(ValueError, match='no label'): m.log_prob(jets[:3].drop('label'))
    assert jets.label.max()==3
    train = lambda a, **kw: jet_gpt(a, tok, width=16, depth=1, heads=2, epochs=1, classes=2, bar=None, **kw)
    with pytest.raises(ValueError, match='0 to 1'): train(jets)
    with pytest.raises(ValueError, match='0 to 1'): train(jets[jets.label<2], valid=jets)
    with pytest.raises(ValueError, match='no label'): train(jets.drop('label'))

def test_what_is_missing(tok, jets):
    "A network without its tokenizer; continuous inputs without particles"
    with pytest.raises(ValueError, match='tokenizer'): generate_jets(author(tok).gpt, None)
    with pytest.raises(ValueError, match='pass the jets'): jet_gpt(tok.encode(jets[:40]), tok, hybrid=True, bar=None)

def test_all_particles_are_hidden_in_turn(jets):
    "The last particle of a jet that fills the page too, and never the start or the stop"
    torch.manual_seed(0)
    tok = JetTokenizer('fsq', 512, R=1., width=16, depth=1, heads=2, particles=5).eval()
    m = author(tok, masking=True)
    rows, seen = m.sentences(jets[:50]), []
    assert (rows.mask.sum(1)==6).any() and not (rows.tokens[rows.mask.sum(1)==6]==m.words.stop).any()
    rows = m.sentences(jets[:50].assign(mask=jets[:50].mask & (torch.arange(jets.mask.shape[1])<torch.arange(50)[:,None]%8)))  # full pages, shorter ones, and one without particles
    plain, gpt = m.gpt.hidden, m.gpt
    gpt.hidden = lambda *a, masked=None, **kw: (seen.append(masked) if masked is not None else None) or plain(*a, masked=masked, **kw)
    objective = next_and_masked(share=.5).train()
    for _ in range(40): objective(gpt, rows)
    ever = torch.stack(seen).any(0)
    assert torch.equal(ever, rows.mask & (rows.tokens>0) & (rows.tokens<=tok.codes))

@pytest.mark.parametrize('energy,log_q,match', [
    (lambda a: a.x[:,None], None, 'one number a jet'), (lambda a: a.x*math.nan, None, '4 of 4'), (lambda a: torch.where(a.x==a.x[0], -math.inf, a.x), None, 'minus infinity'), (lambda a: a.x+math.inf, None, 'no jet is left'),
    (lambda a: a.x, torch.zeros(4,1), 'log_q gives one number'), (lambda a: a.x, torch.zeros(3), 'log_q gives one number'), (lambda a: a.x, torch.tensor([0,-math.inf,0,0]), 'log_q of 1 of 4'), (lambda a: a.x, torch.full((4,), math.nan), 'log_q of 4 of 4')])
def test_weights_that_make_no_sense(energy, log_q, match):
    "Shapes that would broadcast, and numbers that would make all weights NaN"
    with pytest.raises(ValueError, match=match): rerank(Arrays(x=torch.arange(4.)), energy, log_q)

def test_weights_at_the_edge():
    "An impossible jet has no weight; energies may be large; a temperature is positive"
    a = Arrays(x=torch.tensor([0.,1,2]))
    r = rerank(a, lambda a: torch.tensor([1e6, 1e6, math.inf]))
    assert r.weights.tolist()==[.5,.5,0] and r.ess==pytest.approx(2)
    for T in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match='temperature'): rerank(a, lambda a: a.x, temperature=T)
    with pytest.raises(ValueError, match='no jets'): rerank(a[:0], lambda a: a.x)

def test_batches_without_particles(tok, jets):
    "Jets of which nothing is left, a batch of them alone: every loss and gradient is finite, and hidden words have none"
    m, empty = author(tok, masking=True), jets[:6].assign(mask=torch.zeros_like(jets[:6].mask))
    rows = m.sentences(empty)
    assert torch.equal(rows.mask.sum(1), torch.full((6,), 2))
    terms = next_and_masked()(m.gpt.train(), rows)
    sum(terms.values()).backward()
    assert terms['next'].isfinite() and terms['masked']==0 and all(p.grad.isfinite().all() for p in m.gpt.parameters() if p.grad is not None)
    nothing = rows.assign(mask=torch.zeros_like(rows.mask))
    assert next_token(m.gpt, nothing)['next']==0

PROCESSES = '''
import sys, torch
from torch import distributed
import hepebm.tokens.generation as g
from hepebm.core.arrays import Arrays
from hepebm.core.training import _shares
from hepebm.data.samples import sample
from hepebm.nn.gpt import GPT
from hepebm.tokens.tokenizer import Buckets, JetTokenizer
rank, folder = int(sys.argv[1]), sys.argv[2]
torch.manual_seed(0)
tok = JetTokenizer('fsq', 512, R=1., width=16, depth=1, heads=2, particles=64).eval()
m = g.JetGPT(GPT(vocab=515, width=16, depth=2, heads=2, length=65, masking=True), tok)
m.gpt.double()
a = sample('jets', 'train', 64)
short = a.mask & (torch.arange(a.mask.shape[1])<torch.linspace(0, 64, 64)[:,None])     # from none to all of the particles
some, few = m.sentences(a.assign(mask=short)), m.sentences(a.assign(mask=short & (torch.arange(64)>=32)[:,None]))
batches = [b for b in Buckets(some).batches(22, shuffle=True, seed=3)] + [few, some.assign(mask=torch.zeros_like(some.mask))]   # sorted by length; nothing in the first half; nothing at all
def gradient(objective, batch, weight=1.):
    torch.rand = lambda *shape, **kw: batch['tokens']*7919%97/97.                      # what is hidden depends on words alone
    m.zero_grad()
    (sum(objective(m.gpt.train(), batch).values())*weight).backward()
    return torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in m.gpt.parameters()])
objectives = g.next_token, g.next_and_masked(share=.4)
whole = [gradient(o, b) for o in objectives for b in batches]
distributed.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=rank, world_size=2)
parts = [gradient(o, *next(_shares([b], rank, 2, 1))) for o in objectives for b in batches]
for p in parts: distributed.all_reduce(p)
if not rank: torch.save([(w, p/2) for w,p in zip(whole, parts)], f'{folder}/both.pt')
distributed.barrier(); distributed.destroy_process_group()
'''

def test_two_processes_have_the_gradient_of_one(tmp_path):
    "Of both objectives, when one process has the short jets, only empty ones, or both have nothing"
    script = tmp_path/'script.py'
    script.write_text(PROCESSES)
    env = dict(os.environ, PYTHONPATH=str(root), OMP_NUM_THREADS='1')
    both = [subprocess.Popen([sys.executable, str(script), str(r), str(tmp_path)], env=env, stderr=subprocess.PIPE, text=True) for r in range(2)]
    said = [p.communicate(timeout=200)[1] for p in both]
    assert not any(p.returncode for p in both), said[0][-2000:]
    pairs = torch.load(tmp_path/'both.pt', weights_only=True)
    assert len(pairs)==2*5
    for whole,parts in pairs: torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-13)
    assert [bool(w.any()) for w,_ in pairs]==2*[True,True,True,True,False]

def test_a_page_shorter_than_the_dictionary(jets):
    "Jets and their tokens are the same sentences: a jet is read as a whole, then cut"
    torch.manual_seed(0)
    tok = JetTokenizer('fsq', 512, R=1., width=16, depth=1, heads=2, particles=64).eval()
    model = JetGPT(GPT(vocab=515, width=16, depth=1, heads=2, length=21), tok).eval()
    assert (jets.mask.sum(1)>20).any()
    a, b = model.sentences(jets), model.sentences(tok.encode(jets))
    assert torch.equal(a.tokens, b.tokens) and torch.equal(model.log_prob(jets), model.log_prob(tok.encode(jets)))
