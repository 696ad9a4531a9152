"""The plan and the result in plain words, for readers who have not met the field's abbreviations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robal.report.folder import Audited, Changes, Round, RunRecord, is_auto_attack, mapping, number, sequence, whole
from robal.report.rates import Rate

METHODS = {
    "Random": "at random",
    "DRE": "so that the chosen look like the pool in the density of their score",
    "MaxEntropy": "where the model's entropy is highest",
    "Margin": "where the two most probable classes are closest",
    "LeastConfidence": "where the most probable class is least probable",
    "DeepGini": "where the Gini impurity of the probabilities is highest",
    "CoreSet": "so that no pool image is far from a labelled one",
    "DFAL": "nearest to the decision boundary, by DeepFool",
    "BADGE": "by diverse and large gradients",
    "MCP": "where two classes are nearly as likely, visiting the pairs of confused classes in turn",
    "TypiClust": "as the most typical image of each cluster",
}


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(4.25), duration(75), duration(7500)
    ('4.2 s', '1 min 15 s', '2 h 05 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    total = round(seconds)
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    return f"{total // 3600} h {total % 3600 // 60:02d} min"


def epsilon(eps: float) -> str:
    """ε as it is written in papers.

    >>> epsilon(0.2), epsilon(8 / 255), epsilon(0.5)
    ('0.2', '8/255', '0.5')
    """
    steps = eps * 255
    if round(eps, 3) != eps and abs(steps - round(steps)) < 1e-6:
        return f"{round(steps)}/255"
    return f"{eps:.4g}"


def threat(plan: Mapping[str, Any]) -> str:
    """The threat as "L∞ ε = 0.2"; empty where the plan names none."""
    part = mapping(plan.get("threat"))
    name = {"Linf": "L∞", "L2": "L₂", "L1": "L₁"}.get(str(part.get("name")), str(part.get("name", "")))
    eps = number(part.get("eps"))
    return " ".join(word for word in (name, "" if eps is None else f"ε = {epsilon(eps)}") if word)


def component(value: object) -> str:
    """A component with its settings, as deep as they go; what is off, zero or left open goes unsaid.

    >>> component({"name": "DRE", "bins": 50, "stratify": False, "score": {"name": "MaxEntropy"}})
    'DRE (bins 50, score MaxEntropy)'
    """
    if isinstance(value, Mapping):
        part = mapping(value)
        settings = ", ".join(
            f"{key.replace('_', ' ')} {component(item)}" for key, item in part.items() if key != "name" and item
        )
        return " ".join(word for word in (str(part.get("name", "")), f"({settings})" if settings else "") if word)
    if isinstance(value, list | tuple):
        return " + ".join(component(item) for item in value) or "none"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, str) and value.isidentifier() and value.islower():
        return value.replace("_", " ")
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def images_of(row: Round, images: int | None) -> str:
    """What a rate was measured on: "200 test images"."""
    many = "" if images is None else f"{images:,} "
    return f"{many}{row.of_what}"


def headline(record: RunRecord) -> str:
    """The result in one sentence: what was bought and what it gave."""
    row = record.last
    if row is None:
        return "No round is measured yet."
    said = f"{row.bought:,} labels bought: "
    said += "accuracy not measured" if row.accuracy is None else f"{row.accuracy} accurate"
    if row.attack is None:
        where = "" if row.accuracy is None else f" ({images_of(row, row.accuracy.images)})"
        return f"{said}{where}."
    rate = row.robust[row.attack]
    under = ", ".join(word for word in (images_of(row, rate.images), threat(record.plan)) if word)
    return f"{said}, {rate} under {row.attack} ({under})."


def cautions(record: RunRecord) -> list[str]:
    """What a reader must know before quoting the headline."""
    row, said = record.last, []
    if not record.is_finished:
        said.append(f"The run is not over: {record.status}.")
    if row is not None:
        if row.attack is None:
            said.append("Robust accuracy was not measured: nothing here says how the model stands up to an adversary.")
        elif not is_auto_attack(row.attack):
            only_pgd = all(name.upper().startswith("PGD") for name in row.robust)
            said.append(
                f"Only {' and '.join(sorted(row.robust))} was run. {'PGD' if only_pgd else 'A fixed attack'} alone "
                "supports no conclusion about robustness: gradients can be masked, and AutoAttack has not had its try."
            )
        if row.unforeseen:
            said.append(f"{row.unforeseen:,} test images are of classes that nobody has named yet, and count as wrong.")
        if row.measured_on == "validation":
            said.append("There is no test set: the numbers come from validation images, which training has looked at.")
    network, start = mapping(record.plan.get("network")), mapping(record.plan.get("start"))
    if network.get("weights") or network.get("pretrained") or (start.get("weights") and start.get("labels")):
        said.append(
            "Training began from weights that were learned elsewhere, which can lower robustness even under "
            "adversarial fine-tuning (arXiv 2312.05716): compare with a run without them."
        )
    if row is not None and (beside := trained_beside(row)):
        said.append(beside)
    if collapsed := [str(each.number) for each in record.rounds if each.taught and each.taught.collapsed]:
        which = f"round {collapsed[0]}" if len(collapsed) == 1 else f"rounds {', '.join(collapsed)}"
        said.append(f"In {which} the pool was left out: the pseudo-labels had collapsed on too few classes.")
    return said + list(record.notes)


def findings(record: RunRecord) -> list[str]:
    """What the run found beside its headline: what retraining changed, and what became of wrong labels."""
    row, said = record.last, list[str]()
    if row is None:
        return said
    if row.audit:
        said.append(audit(row.audit))
    first = record.rounds[0]
    audited = row.audit.changes if row.audit and row.measured_on == "test" else {}
    is_retrained = bool(row.labels.get("known")) and row is not first
    rates = _from_to(first.accuracy, row.accuracy, first.robust, row.robust)
    if rates and (row.changes or (is_retrained and row.measured_on == "test")):
        said.append(f"Before retraining → after it, on the same images, none of which could be chosen: {rates}.")
        said += [forgetting(row.changes)] if row.changes else []
    if audited and row.audit and first.audit:
        rates = _from_to(first.audit.accuracy, row.audit.accuracy, first.audit.robust, row.audit.robust)
        said.append(f"On the audit set: {rates}. {forgetting(audited)}")
    if is_retrained and row.known:
        rates = _from_to(first.known, row.known, first.known_robust, row.known_robust)
        image_by_image = f" {forgetting(row.known_changes)}" if row.known_changes else ""
        said.append(f"On test images of what it was trained on before: {rates}.{image_by_image}")
    if max(len(row.changes), len(row.known_changes), len(audited)) > 1:
        said.append("Attacks draw at random: on a few images the same model, attacked twice, would differ as well.")
    if record.new_classes:
        words = " and ".join(record.new_classes)
        said.append(f"On the way {len(record.new_classes)} new {_classes(len(record.new_classes))} came up: {words}.")
    if row.wrong:
        which = {"loss": "the trained model's loss", "distrust": "what the objective learned of each label"}
        told = [f"{value:.2f} by {which.get(name, name)}" for name, value in row.auroc.items()]
        scores = f" The chance that a wrong one ranks above a right one (AUROC): {', '.join(told)}." if told else ""
        said.append(f"Of the bought labels trained on, {row.wrong:,} are wrong in this simulation.{scores}")
    again, changed = (sum(getattr(each, name) for each in record.rounds) for name in ("again", "changed"))
    if again:
        said.append(f"{again:,} labels that looked wrong were asked for again, and {changed:,} of them changed.")
    return said


def _from_to(was: Rate | None, now: Rate | None, was_robust: Mapping[str, Rate], now_robust: Mapping[str, Rate]) -> str:
    """Rates before and after: "clean 97.0 → 98.0 % (+1.0), PGD-50 …"."""
    pairs = [("clean", was, now), *((name, was_robust.get(name), rate) for name, rate in now_robust.items())]
    return ", ".join(
        f"{name} {100 * one.value:.1f} → {100 * other.value:.1f} % ({100 * (other.value - one.value):+.1f})"
        for name, one, other in pairs
        if one is not None and other is not None
    )


def forgetting(changes: Mapping[str, Changes]) -> str:
    """What was forgotten and learned, of the images as they are and under each attack."""
    said = []
    for name, found in changes.items():
        is_clean = name == "clean"
        halves = (
            ("had right" if is_clean else "stood", found.right, found.forgotten, "forgotten"),
            ("had wrong" if is_clean else "did not stand", found.wrong, found.learned, "learned"),
        )
        parts = [
            f"of {'those' if count is None else f'{count:,}'} that it {which}, {100 * share:.1f} % are {fate}"
            for which, count, share, fate in halves
            if share is not None
        ]
        said.append(("" if is_clean else f"under {name} ") + ", ".join(parts))
    return f"Image by image: {'; '.join(said)}."


def audit(found: Audited) -> str:
    """What the audit set says, and of how many images."""
    rates = [f"{found.accuracy} accurate ({found.accuracy.range})"] if found.accuracy else ["nothing of accuracy"]
    rates += [f"{rate} under {name} ({rate.range})" for name, rate in found.robust.items()]
    said = (
        f"The audit set, {found.asked:,} images that were drawn at random, labelled first and never trained on, says: "
        f"{', '.join(rates)}."
    )
    out = [
        f"{count:,} {'is' if count == 1 else 'are'} {word}"
        for key, word in (("none_of_these", "none of the classes"), ("skipped", "without an answer"))
        if (count := found.answers.get(key, 0))
    ]
    said += f" Of them {' and '.join(out)}, and not in these rates." if out else ""
    alike = f" {found.alike:,} further images of the pool, like some of these, were kept out of the run."
    return said + (alike if found.alike else "")


def trained_beside(row: Round) -> str | None:
    """What was trained on that is no bought label: adversarial twins, pseudo-labelled images; None without any."""
    parts = []
    if twins := row.kept.get("twin", 0):
        parts.append(f"{twins:,} adversarial {'twin' if twins == 1 else 'twins'} of bought images")
    if crafted := row.kept.get("crafted", 0):
        parts.append(f"{crafted:,} crafted {'image' if crafted == 1 else 'images'}")
    if pseudo := row.kept.get("pseudo", 0):
        parts.append(f"{_images(pseudo)} under the model's own label{_of_them_right(row.pseudo_right)}")
    if row.taught and row.taught.pseudo:
        out = f", {row.taught.disputed:,} kept out by a witness" if row.taught.disputed else ""
        out += f", {row.taught.outside:,} taken for none of the classes and left out" if row.taught.outside else ""
        parts.append(
            f"{_images(row.taught.pseudo)} of the pool under a teacher's label{_of_them_right(row.taught.right)}{out}"
        )
    return f"Trained on beside the bought labels: {'; '.join(parts)}. They count as no label." if parts else None


def _classes(count: int) -> str:
    return "class" if count == 1 else "classes"


def _images(count: int) -> str:
    return f"{count:,} {'image' if count == 1 else 'images'}"


def _of_them_right(share: float | None) -> str:
    return "" if share is None else f" ({100 * share:.1f} % of them right)"


def free_labels(record: RunRecord) -> str | None:
    """The labels that cost nothing on paper, said loudly; None where every label was bought."""
    labels = record.last.labels if record.last else {}
    free, known, said = labels.get("free_validation", 0), labels.get("known", 0), list[str]()
    if audited := labels.get("audit", 0):
        said.append(f"{audited:,} labels are of the audit set: test labels, which are not in the labels bought.")
    if known:
        said.append(
            f"{known:,} labels were known from the beginning: they are trained on and not in the labels bought."
        )
    if not free:
        return " ".join(said) or None
    chosen = mapping(record.plan.get("recipe")).get("keep") == "best"
    used = "models were chosen by them" if chosen else "they were looked at, not trained on"
    said.append(f"{free:,} validation labels were free: {used}, and they are not in the labels bought.")
    return " ".join(said)


def _data(record: RunRecord) -> list[str]:
    plan, data = record.plan, mapping(record.environment.get("data"))
    name = data.get("name") or mapping(plan.get("data")).get("name") or "an unnamed data set"
    sizes = [f"{whole(data[key]):,} {word}" for key, word in PARTS if whole(data.get(key)) is not None]
    shape = [str(side) for side in sequence(data.get("shape"))]
    if len(shape) == 3:
        shape = [f"{' × '.join(shape[1:])} pixels, {COLOURS.get(shape[0], shape[0] + ' channels')}"]
    kinds = f" of {len(record.classes)} classes" if record.classes else ""
    first = f"The data are {name}{kinds}" + (f", {' × '.join(shape)}" if shape else "")
    about = str(data.get("about") or "").strip().rstrip(".")
    said = [first + (": " + ", ".join(sizes) if sizes else "") + "."]
    said += [about[0].upper() + about[1:] + "."] if about else []
    share = number(mapping(plan.get("validation")).get("bought_share"))
    return said + ([f"{100 * share:.0f} % of the labels bought are kept for validation."] if share else [])


COLOURS = {"1": "grey", "3": "colour"}
PARTS = (("pool", "in the pool"), ("validation", "for validation"), ("test", "for the test"))


def _choosing(plan: Mapping[str, Any]) -> list[str]:
    start, rounds, each = (
        whole(mapping(plan.get("start")).get("labels")),
        whole(plan.get("rounds")),
        plan.get("per_round"),
    )
    first = component(mapping(mapping(plan.get("start")).get("recipe")).get("objective") or "")
    how = f", and the first model is trained on them by {first}" if first else ""
    by = mapping(mapping(plan.get("start")).get("acquisition"))
    kind = f"labels chosen by {component(by)}" if by.get("name", "Random") != "Random" else "random labels"
    said = [f"The run starts from {start:,} {kind}{how}."] if start is not None else []
    before = [f"An audit set is labelled first (audit: {plan.get('audit')}), to measure by and not to train on."]
    said = (before if plan.get("audit") else []) + said
    if start == 0:
        given = mapping(plan.get("start")).get("weights")
        trained = f"trained by {first} on labels that are known" if first else "trained on labels that are known"
        said = [f"No label is bought at the start: the first model is {'given' if given else trained}."]
    if plan.get("acquisition"):
        asked = "each round" if rounds is None else "in one round" if rounds == 1 else f"in each of {rounds} rounds"
        many = f"{whole(each):,} {'more ' if start else ''}images are" if whole(each) is not None else "More images are"
        method = METHODS.get(str(mapping(plan["acquisition"]).get("name")))
        gloss = f", {method}" if method else ""
        said.append(
            f"{asked.capitalize()} {many[0].lower()}{many[1:]} chosen by {component(plan['acquisition'])}{gloss}."
        )
    oracle = mapping(plan.get("oracle"))
    if oracle:
        noise = number(oracle.get("noise"))
        wrong = f", {100 * noise:.1f} % of them wrong on purpose" if noise else ""
        simulated = "The labels come from the data set itself (a simulated oracle)"
        said.append(f"{simulated if oracle.get('name') == 'Hidden' else f'{component(oracle)} labels them'}{wrong}.")
    return said


def _training(record: RunRecord) -> list[str]:
    plan, shape = record.plan, sequence(mapping(record.environment.get("data")).get("shape"))
    after = f", of intensities in [0, 1] at {shape[1]} × {shape[2]} pixels" if len(shape) == 3 else ""
    recipe, under = mapping(plan.get("recipe")), threat(plan)
    objective = mapping(recipe.get("objective"))
    how = component(objective)
    if objective.get("name") == "Natural":
        how = "natural training, without adversarial examples"
    elif objective.get("name") == "Adversarial":
        how = f"adversarial training against {component(objective.get('attack') or 'its attack')}"
    budget, pool = whole(recipe.get("budget")), mapping(recipe.get("pool"))
    with_ = [f"{budget:,} gradient evaluations a round"] if budget else []
    with_ += [f"{recipe['epochs']} epochs"] if "epochs" in recipe and not budget else []
    with_ += [f"{recipe['batch_size']} images a batch"] if "batch_size" in recipe else []
    with_ += [component(recipe["optimiser"])] if "optimiser" in recipe else []
    who = component(plan["network"]) if plan.get("network") else "The network"
    said = [f"{who} is trained by {how}" + (f"; {', '.join(with_)}" if with_ else "") + "."] if recipe else []
    if pool:
        said.append(
            "A standard teacher, trained on the labels bought, names the rest of the pool, which is trained on too."
        )
    if "warm_start" in recipe:
        said.append("Each round goes on from the last model." if recipe["warm_start"] else "Each round starts afresh.")
    return said + ([f"The adversary may move every image by {under}{after}."] if under else [])


def plan_in_words(record: RunRecord) -> str:
    """The plan as a paragraph: data, choice, training, threat, measurement. What is absent is left unsaid."""
    evaluation = mapping(record.plan.get("evaluation"))
    said = _data(record) + _choosing(record.plan) + _training(record)
    if sequence(evaluation.get("each_round")):
        said.append(f"Each round is attacked by {component(evaluation['each_round'])}.")
    if sequence(evaluation.get("at_end")):
        said.append(f"The last model is attacked by {component(evaluation['at_end'])}.")
    return " ".join(said)
