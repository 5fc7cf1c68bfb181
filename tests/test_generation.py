"Authors of jets: what they are asked for in vain, what is hidden, weights, and losses in several processes"
import math
import pytest, torch
from hepebm.core.arrays import Arrays
from hepebm.data.samples import sample
from hepebm.nn.gpt import GPT
from hepebm.tokens.generation import JetGPT, generate_jets, jet_gpt, next_and_masked, next_token, rerank
from hepebm.tokens.tokenizer import JetTokenizer

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
