import mar_inputs
import pytest
import torch
from mar_inputs import assert_same, unit_rows, value_and_gradients

from raid.losses.cross_view import CrossViewCentre, by_view, cross_view_loss
from raid.ops.multilabel import log_soft_multilabels

FORMS = ["released", "paper"]


def logs(rows=15, seed=0, dtype=torch.float64):
    features, agents = unit_rows(rows, 6, seed, dtype=dtype), unit_rows(7, 6, seed + 1, dtype=dtype)
    return log_soft_multilabels(features, agents, 30)


def plain_moments(rows):
    """Mean and unbiased deviation of each column, in plain sums."""
    mean = sum(rows) / len(rows)
    deviation = (sum((row - mean) ** 2 for row in rows) / (len(rows) - 1)) ** 0.5
    return mean, deviation


def plain_views(log_multilabels, views):
    found = []
    for view in sorted(set(views.tolist())):
        rows = [row for row, of_row in zip(log_multilabels, views.tolist(), strict=True) if of_row == view]
        if len(rows) > 1:
            found.append(plain_moments(rows))
    return found


def plain_loss(log_multilabels, views, mean, deviation, form):
    """Eq. 6, view after view."""
    found = plain_views(log_multilabels, views)
    total = 0 * log_multilabels.sum()
    for mu, sigma in found:
        total = total + ((mu - mean) ** 2).sum() + ((sigma - deviation) ** 2).sum()
    return total if form == "paper" or not found else total / (2 * len(found))


def example(seed=0):
    views = torch.tensor([4, 1, 1, 4, 9, 4, 1, 1, 4, 9, 4, 2, 1, 4, 1])  # 9 has two images, 2 has one
    centre = CrossViewCentre.of_images(logs(40, seed + 10), by_view(torch.arange(40) % 4), momentum=0.1)
    return logs(seed=seed), views, centre


def test_golden_values():
    inputs = mar_inputs.golden()
    log_multilabels = log_soft_multilabels(inputs.target, inputs.agents, 30)
    centre = CrossViewCentre.of_images(log_multilabels, by_view(inputs.views), momentum=0.0368)
    centre.update(log_multilabels, by_view(inputs.views))
    released = cross_view_loss(log_multilabels, by_view(inputs.views), centre, form="released").item()
    assert released == pytest.approx(102.306145, abs=2e-5)
    paper = cross_view_loss(log_multilabels, by_view(inputs.views), centre, form="paper").item()
    assert paper == pytest.approx(6 * 102.306145, abs=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("form", FORMS)
def test_loss_and_gradient_equal_the_loop(form, seed):
    log_multilabels, views, centre = example(seed)
    found = value_and_gradients(
        lambda z: cross_view_loss(z, by_view(views), centre, form=form), log_multilabels
    )
    assert_same(
        found,
        value_and_gradients(
            lambda z: plain_loss(z, views, centre.mean, centre.deviation, form), log_multilabels
        ),
    )


def test_the_paper_is_twice_the_number_of_views_times_the_released():
    log_multilabels, views, centre = example()  # three views of two images or more
    released, paper = (
        value_and_gradients(
            lambda z, form=form: cross_view_loss(z, by_view(views), centre, form=form), log_multilabels
        )
        for form in FORMS
    )
    assert_same([6 * part for part in released], paper)


def test_centre_follows_the_batches_view_by_view():
    log_multilabels, views, centre = example()
    before = CrossViewCentre(centre.mean, centre.deviation, momentum=0.1)
    centre.update(log_multilabels.requires_grad_(), by_view(views))
    found = plain_views(log_multilabels.detach(), views)
    for part, name in enumerate(("mean", "deviation")):
        of_batch = sum(moments[part] for moments in found) / len(found)
        expected = 0.9 * getattr(before, name) + 0.1 * of_batch
        torch.testing.assert_close(getattr(centre, name), expected, rtol=1e-12, atol=1e-12)
        assert not getattr(centre, name).requires_grad
    whole = CrossViewCentre.of_images(log_multilabels, by_view(views), momentum=0.1)
    torch.testing.assert_close(whole.mean, sum(moments[0] for moments in found) / len(found))


@pytest.mark.parametrize("form", FORMS)
def test_order_of_images_and_names_of_views_do_not_matter(form):
    log_multilabels, views, centre = example()
    order, names = torch.randperm(15, generator=torch.Generator().manual_seed(2)), torch.arange(10).flip(0)
    loss = cross_view_loss(log_multilabels, by_view(views), centre, form=form)
    torch.testing.assert_close(
        cross_view_loss(log_multilabels[order], by_view(names[views][order]), centre, form=form), loss
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("num_images", [1, 4])
def test_no_view_with_two_images_is_no_loss_and_no_gradient(form, num_images):
    log_multilabels, _, centre = example()
    state = centre.state_dict()
    views = torch.arange(num_images)
    value, gradient = value_and_gradients(
        lambda z: cross_view_loss(z, by_view(views), centre, form=form), log_multilabels[:num_images]
    )
    centre.update(log_multilabels[:num_images], by_view(views))
    assert value == 0
    assert (gradient == 0).all()
    assert torch.equal(centre.mean, state["mean"])
    assert torch.equal(centre.deviation, state["deviation"])
    with pytest.raises(ValueError, match="no camera has two images"):
        CrossViewCentre.of_images(log_multilabels[:num_images], by_view(views), momentum=0.1)


def test_equal_images_in_a_view_have_a_finite_gradient():
    log_multilabels, views, centre = example()
    value, gradient = value_and_gradients(
        lambda z: cross_view_loss(z, by_view(views), centre, form="released"),
        log_multilabels[:1].repeat(15, 1),
    )
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_give_a_finite_loss_in_float32(dtype):
    agents = torch.tensor([[1.0, 0], [-1, 0], [0, 1]])  # a similarity of -1: e^-60 is 0 in float16
    features = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    expected, found = [], []
    for rows, into in ((features, expected), (features.to(dtype), found)):
        with torch.autocast("cpu", torch.bfloat16, enabled=into is found):
            z = log_soft_multilabels(rows, agents, 30)
            centre = CrossViewCentre.of_images(z, by_view(torch.zeros(4)), momentum=0.1)
            into.append(cross_view_loss(z[:2], by_view(torch.zeros(2)), centre, form="released"))
    assert found[0].dtype == torch.float32
    assert found[0].isfinite()
    assert torch.equal(found[0], expected[0])


@pytest.mark.parametrize("form", FORMS)
def test_workers_that_gather_get_the_gradient_of_one(form):
    agents, views = unit_rows(7, 6, 3), torch.arange(12) % 4
    centre = CrossViewCentre.of_images(logs(40), by_view(torch.arange(40) % 4), momentum=0.1)

    def loss(features):
        return cross_view_loss(log_soft_multilabels(features, agents, 30), by_view(views), centre, form=form)

    expected = mar_inputs.weight_gradient(loss, [unit_rows(12, 9, 1)], 1)
    assert_same([mar_inputs.weight_gradient(loss, [unit_rows(12, 9, 1)], 2)], [expected], 1e-9)


def test_state_is_kept_and_taken_over():
    log_multilabels, views, centre = example()
    state = centre.state_dict()
    other = CrossViewCentre(torch.zeros(7).double(), torch.zeros(7).double(), momentum=0.1)
    other.load_state_dict(state)
    for one in (centre, other):
        one.update(log_multilabels, by_view(views))
    assert torch.equal(centre.mean, other.mean)
    assert torch.equal(centre.deviation, other.deviation)
    assert not torch.equal(centre.mean, state["mean"])


def test_bad_settings():
    log_multilabels, views, centre = example()
    with pytest.raises(ValueError, match="form must be"):
        cross_view_loss(log_multilabels, by_view(views), centre, form="code")
    with pytest.raises(ValueError, match=r"momentum must be 0 to 1, got 368"):
        CrossViewCentre(centre.mean, centre.deviation, momentum=368)
