import mar_inputs
import pytest
import torch
from mar_inputs import assert_same, unit_rows, value_and_gradients

from raid.losses.reference_agent import agent_loss, joint_embedding_loss

FORMS = ["released", "paper"]


def plain_agent_loss(features, agents, labels, scale):
    """Eq. 7, image after image, as a mean."""
    terms = []
    for feature, label in zip(features, labels, strict=True):
        powers = [torch.exp(scale * (agent @ feature)) for agent in agents]
        terms.append(-torch.log(powers[label] / sum(powers)))
    return sum(terms) / len(terms)


def distance(agent, feature):
    return ((agent - feature) ** 2).sum()


def plain_released(source, labels, target, agents, margin):
    """The mean over terms, image after image (methods.md 3.3); similarity decides which agents are near."""
    terms = []
    for feature, label in zip(source, labels, strict=True):
        terms.append(distance(agents[label], feature))
        near = [a for k, a in enumerate(agents) if k != label and a @ feature > 1 - margin / 2]
        if near:
            terms.append(sum(torch.relu(margin - distance(a, feature)) for a in near) / len(near))
    for feature in target:
        near = [a for a in agents if a @ feature > 1 - margin / 2]
        if near:
            terms.append(sum(torch.relu(margin - distance(a, feature)) for a in near) / len(near))
    return sum(terms) / len(terms)


def plain_paper(source, labels, target, agents, margin):
    """Eq. 8 as it stands."""
    total = 0 * source.sum() + 0 * target.sum()
    for i, agent in enumerate(agents):
        for far in target:
            for close, label in zip(source, labels, strict=True):
                if label == i and distance(agent, far) < margin:
                    total = total + torch.relu(margin - distance(agent, far)) + distance(agent, close)
    return total


PLAIN = {"released": plain_released, "paper": plain_paper}


def batch(seed, spread=1.0):
    labels = torch.randint(7, (11,), generator=torch.Generator().manual_seed(seed))
    rows = (unit_rows(n, 6, seed + n, spread=spread) for n in (11, 13, 7))
    source, target, agents = rows
    return source, labels, target, agents


@pytest.mark.parametrize(("form", "expected"), [("released", 0.49244368), ("paper", 2.1073)])
def test_golden_values(form, expected):
    inputs = mar_inputs.golden()
    loss = joint_embedding_loss(
        inputs.source, inputs.labels, inputs.target, inputs.agents, margin=1.0, form=form
    )
    assert loss.item() == pytest.approx(expected, abs={"released": 2e-7, "paper": 5e-5}[form])


@pytest.mark.parametrize("seed", range(3))
def test_agent_loss_and_its_gradients_equal_the_loop(seed):
    source, labels, _, agents = batch(seed)
    found, expected = (
        value_and_gradients(lambda f, a, loss=loss: loss(f, a, labels, 30), source, agents)
        for loss in (agent_loss, plain_agent_loss)
    )
    assert_same(found, expected, 1e-9)


@pytest.mark.parametrize("spread", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("margin", [0.4, 1.0])
@pytest.mark.parametrize("form", FORMS)
def test_joint_embedding_and_its_gradients_equal_the_loop(form, margin, spread):
    source, labels, target, agents = batch(0, spread)
    found = value_and_gradients(
        lambda s, t: joint_embedding_loss(s, labels, t, agents, margin=margin, form=form), source, target
    )
    assert_same(
        found, value_and_gradients(lambda s, t: PLAIN[form](s, labels, t, agents, margin), source, target)
    )


def test_one_image_of_each_gives_the_paper_twice_the_released_and_other_batches_do_not():
    agents = torch.eye(3, dtype=torch.float64)[:2]
    source = torch.nn.functional.normalize(torch.tensor([[2.0, 0.2, 1.0]]).double(), dim=1)
    target = torch.nn.functional.normalize(torch.tensor([[3.0, 0.1, 0.3]]).double(), dim=1)
    labels = torch.tensor([0])
    released, paper = (
        joint_embedding_loss(source, labels, target, agents, margin=1.0, form=form) for form in FORMS
    )
    assert paper.item() == pytest.approx(2 * released.item())
    ratios = set()
    for seed in range(3):
        values = [joint_embedding_loss(*batch(seed), margin=1.0, form=form).item() for form in FORMS]
        ratios.add(round(values[1] / values[0], 3))
    assert len(ratios) == 3


@pytest.mark.parametrize("form", FORMS)
def test_order_of_images_and_of_agents_does_not_matter(form):
    source, labels, target, agents = batch(1)
    generator = torch.Generator().manual_seed(5)
    one, two, names = (torch.randperm(n, generator=generator) for n in (11, 13, 7))
    renamed = torch.empty_like(agents)
    renamed[names] = agents
    for loss, other in (
        (agent_loss(source, agents, labels, 30), agent_loss(source[one], renamed, names[labels][one], 30)),
        (
            joint_embedding_loss(source, labels, target, agents, margin=1.0, form=form),
            joint_embedding_loss(
                source[one], names[labels][one], target[two], renamed, margin=1.0, form=form
            ),
        ),
    ):
        torch.testing.assert_close(other, loss)


def test_every_image_twice():
    source, labels, target, agents = batch(2)
    twice = source.repeat(2, 1), labels.repeat(2), target.repeat(2, 1), agents
    torch.testing.assert_close(
        agent_loss(twice[0], agents, twice[1], 30), agent_loss(source, agents, labels, 30)
    )
    for form, factor in (("released", 1), ("paper", 4)):
        loss = joint_embedding_loss(source, labels, target, agents, margin=1.0, form=form)
        torch.testing.assert_close(joint_embedding_loss(*twice, margin=1.0, form=form), factor * loss)


def test_no_agent_near_anything():
    agents = torch.eye(4, dtype=torch.float64)[:2]
    source = torch.tensor([[0.6, 0, 0.8, 0]]).double()
    target = torch.tensor([[0.0, 0, 0, 1]]).double()
    for form, expected in (("released", 0.8), ("paper", 0.0)):
        value, *gradients = value_and_gradients(
            lambda s, t, form=form: joint_embedding_loss(
                s, torch.tensor([0]), t, agents, margin=1.0, form=form
            ),
            source,
            target,
        )
        assert value.item() == pytest.approx(expected)
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert (gradients[1] == 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_an_image_on_its_agent_and_a_set_that_is_empty(form):
    agents = torch.eye(3)
    for num_source, num_target in ((3, 3), (3, 0), (0, 3), (0, 0)):
        value, *gradients = value_and_gradients(
            lambda s, t, n=num_source: joint_embedding_loss(
                s, torch.arange(n), t, agents, margin=1.0, form=form
            ),
            agents[:num_source],
            agents[:num_target],
        )
        assert value.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("form", FORMS)
def test_agents_get_a_gradient_from_the_agent_loss_alone(form):
    source, labels, target, agents = batch(3)
    agents.requires_grad_()
    joint_embedding_loss(source.requires_grad_(), labels, target, agents, margin=1.0, form=form).backward()
    assert agents.grad is None
    agent_loss(source, agents, labels, 30).backward()
    assert agents.grad.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_and_autocast_do_not_lower_the_precision(dtype):
    source, labels, target, agents = batch(4)
    source, target, agents = source.to(dtype), target.to(dtype), agents.float()
    expected = [agent_loss(source.float(), agents, labels, 30)]
    expected += [
        joint_embedding_loss(source.float(), labels, target.float(), agents, margin=1.0, form=form)
        for form in FORMS
    ]
    with torch.autocast("cpu", torch.bfloat16):
        found = [agent_loss(source, agents, labels, 30)]
        found += [
            joint_embedding_loss(source, labels, target, agents, margin=1.0, form=form) for form in FORMS
        ]
    assert [loss.dtype for loss in found] == [torch.float32] * 3
    assert torch.equal(torch.stack(found), torch.stack(expected))


@pytest.mark.parametrize("form", FORMS)
def test_workers_that_gather_get_the_gradient_of_one(form):
    _, _, _, agents = batch(5)
    labels = torch.arange(8) % 7
    inputs = [unit_rows(n, 9, n, spread=3.0) for n in (8, 12)]

    def loss(source, target):
        return joint_embedding_loss(source, labels, target, agents, margin=1.8, form=form)

    expected = mar_inputs.weight_gradient(loss, inputs, 1)
    assert expected.abs().max() > 0
    assert_same([mar_inputs.weight_gradient(loss, inputs, 2)], [expected], 1e-12)


def test_workers_give_the_agent_loss_their_own_rows():
    source, labels, _, agents = (rows[:10] for rows in batch(6))
    _, expected = value_and_gradients(lambda a: agent_loss(source, a, labels, 30), agents)
    halves = [
        value_and_gradients(lambda a, r=r: agent_loss(source[r], a, labels[r], 30), agents)[1]
        for r in (slice(0, 5), slice(5, 10))
    ]
    assert_same([sum(halves) / 2], [expected])


def test_unknown_form():
    with pytest.raises(ValueError, match="form must be 'released' or 'paper', got 'code'"):
        joint_embedding_loss(*batch(0), margin=1.0, form="code")
