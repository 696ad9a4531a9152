// The labelling page. One thing is done at a time, in the order in which it was asked for: what is asked for while an
// answer is being saved waits in `queue`. The next image shows when the answer is on the server's disk. `queue`, and
// `flight`, the answer under way, lie in sessionStorage, so that a reload loses neither; and each answer has a key, so
// that one which is sent twice counts once.
"use strict";

const $ = (id) => document.getElementById(id);

let view = null; // what the server said last
let answered = new Map(); // this person's answers: image -> label, in the order in which they were given
const kept = JSON.parse(sessionStorage.getItem("work") ?? '{"queue": [], "flight": null, "seen": []}');
let { queue, flight } = kept; // see above
let seen = new Set(kept.seen); // images whose guess was shown
const keep = () => sessionStorage.setItem("work", JSON.stringify({ queue, flight, seen: [...seen] })); // all at once
let busy = false;
let waiting = new Set(); // images that have too few answers
let given = []; // this person's answers and decisions, in the order in which they were given: { image, decides }
let moment = 0; // grows with every answer sent, and with every look
let odd = new Set(); // images left out of a grid, for later
let guesses = null; // image -> label, once asked for
let many = false; // grid mode
let since = []; // when answers were given, for the rate
const pictures = new Map(); // image -> its <img>, loaded ahead
let frame = null; // which image is shown

const who = () => $("who").value.trim() || view?.you || "";

// ── talking to the server ──

async function call(path, body) {
  const asked = body === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(path, asked);
  const found = await answer.json().catch(() => ({ error: answer.statusText }));
  if (!answer.ok) throw Object.assign(new Error(found.error ?? answer.statusText), { status: answer.status });
  return found;
}

function trouble(text) {
  $("trouble").hidden = !text;
  if (text) $("trouble").textContent = text;
}

// Try until it is saved: a lost connection or a full disk pass. What the server calls wrong is not tried again.
async function sent(path, body) {
  for (let wait = 100; ; wait = Math.min(2 * wait, 2000)) {
    try {
      const found = await call(path, body);
      trouble("");
      return found;
    } catch (error) {
      if (error.status === 403) trouble("This page's link is no longer good: open the one that robal printed last. The last answer waits here.");
      else if (error.status >= 400 && error.status < 500) throw error;
      else trouble(`Not saved yet; trying again. ${error.status ? error.message : "The server does not answer."}`);
      await new Promise((done) => setTimeout(done, wait));
    }
  }
}

async function look() {
  const mine = ++moment;
  const found = await sent(`/api/view?who=${encodeURIComponent(who())}`);
  if (mine !== moment) return; // something was said, or looked at, since
  view = found;
  $("who").placeholder = view.you;
  const said = view.mine ?? [];
  answered = new Map(said.filter(([, , decides]) => !decides).map(([image, label]) => [image, label]));
  given = said.map(([image, , decides]) => ({ image, decides }));
  waiting = new Set(view.missing);
  if (!view.images || (guesses && guesses.round !== view.round)) guesses = null;
  classes();
  show();
}

// ── doing one thing after the other ──

function ask(act) {
  if (act.name === "label") act.dispute = deciding()?.image ?? null;
  queue.push(act);
  keep();
  work();
}

async function work() {
  if (busy) return;
  busy = true;
  try {
    while (queue.length) {
      await perform(queue.shift());
      keep();
    }
  } catch (error) {
    trouble(`Something is wrong with this page: ${error.message}. Reload it; what was saved is saved.`);
    throw error;
  } finally {
    busy = false;
  }
}

// Images that wait for this person, in order: others may have said enough of some.
const open = () => (view?.images ? view.images.filter((image) => waiting.has(image) && !answered.has(image)) : []);
const deciding = () => (view?.images && !open().length && view.disputed.length ? view.disputed[0] : null);
const current = () => open()[0] ?? deciding()?.image ?? null;

async function perform(act) {
  if (act.name === "label") {
    const [image, dispute] = [current(), deciding()];
    if (image === null || act.label >= view.classes.length) return;
    if ((act.dispute ?? null) !== (dispute?.image ?? null)) return; // decided is what was seen, and nothing else
    if (act.image !== undefined && act.image !== image) return;
    await judge([{ image, label: act.label, decides: dispute !== null }]);
  } else if (act.name === "undo") {
    const last = given.at(-1);
    if (last !== undefined) await judge([{ ...last, label: null }]);
  } else if (act.name === "all") {
    await judge(act.images.filter((image) => !answered.has(image)).map((image) => ({ image, label: act.label, decides: false })));
  }
}

async function judge(said) {
  if (!said.length) return;
  moment++;
  const judgements = said.map((one) => ({ ...one, key: key(), guess_seen: seen.has(one.image) }));
  flight = { who: who(), question: view.question, judgements };
  keep();
  await land();
}

const key = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

async function land() {
  const { judgements } = flight;
  try {
    const found = await sent("/api/judgements", flight);
    flight = null;
    keep();
    for (const one of judgements) {
      given = given.filter((other) => other.image !== one.image || other.decides !== one.decides);
      if (one.label !== null) given.push({ image: one.image, decides: one.decides });
      if (one.decides) continue;
      answered.delete(one.image);
      if (one.label !== null) {
        answered.set(one.image, one.label);
        since.push(Date.now());
        example(one);
      }
      note(one);
    }
    Object.assign(view, found);
    waiting = new Set(view.missing);
    if (judgements.some((one) => one.decides) || !open().length) await look();
    else show();
  } catch (error) {
    flight = null;
    queue = []; // what was meant for this question is not meant for another
    keep();
    await look();
    trouble(error.message);
  }
}

function note(one) {
  $("said").textContent = one.label === null ? `image ${one.image}: taken back` : `image ${one.image}: ${named(one.label)}`;
  const button = document.querySelector(`#classes button[data-label="${one.label}"]`);
  if (!button) return;
  button.classList.add("flash");
  setTimeout(() => button.classList.remove("flash"), 150);
}

// The first few of each class stand beside its name, for reference.
function example(one) {
  if (one.label < 0) return;
  const known = (view.examples[one.label] ??= []);
  if (known.length < 3 && !known.includes(one.image)) {
    known.push(one.image);
    document.querySelector(`#classes button[data-label="${one.label}"]`)?.append(thumbnail(one.image));
  }
}

const named = (label) => (label === view.skipped ? "skipped" : label === view.none ? "none of these" : view.classes[label]);

// ── keys ──

// A class called by one character has that key; others get 1 to 9 and 0 in turn, while there are at most ten classes.
function keys() {
  const single = view.classes.map((name) => (/^[0-9a-z]$/i.test(name) ? name.toLowerCase() : null));
  const free = [..."1234567890"].filter((key) => !single.includes(key));
  const few = view.classes.length <= 10;
  return single.map((key) => key ?? (few ? free.shift() : undefined) ?? null);
}

const acts = { Backspace: "undo", " ": "skip", "-": "none", "+": "new", ".": "zoom", "?": "guess", "#": "grid" };

addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || $("new-class").open) return;
  const typing = event.target.tagName === "INPUT";
  if (event.target === $("filter")) {
    if (event.key === "Enter") choose();
    else if (event.key === "Escape") $("filter").value = "";
    else if (event.key === "Backspace" && !$("filter").value) act("undo");
    else if (!$("filter").value && event.key in acts && event.key !== "Backspace") act(acts[event.key]);
    else return;
    event.preventDefault();
    sieve();
    return;
  }
  if (typing || !view) return;
  const pressed = event.target.tagName === "BUTTON" && (event.key === "Enter" || event.key === " ");
  if (!$("grid").hidden) {
    const tile = $("tiles").contains(event.target); // Space turns a tile, Enter saves
    if (event.key === "Enter" && (tile || !pressed)) $("grid-save").click();
    else if (event.key === "Escape" || event.key === "#") leave();
    else return;
  } else if (!$("rest").hidden && !busy) {
    if (event.key === "Enter" && !pressed && !$("go-on").hidden) $("go-on").click();
    else if (event.key === "Backspace" && !$("rest-undo").hidden) ask({ name: "undo" });
    else return;
  } else {
    const label = keys().indexOf(event.key.toLowerCase());
    if (label >= 0) ask({ name: "label", label });
    else if (event.key in acts && !pressed) act(acts[event.key]);
    else if (!$("find").hidden && event.key.length === 1 && !pressed) {
      $("filter").focus();
      return; // the letter goes into the field
    } else return;
  }
  event.preventDefault();
});

function act(name) {
  if (name === "skip") ask({ name: "label", label: view.skipped });
  else if (name === "none") ask({ name: "label", label: view.none });
  else if (name === "undo") ask({ name: "undo" });
  else if (name === "new") add();
  else if (name === "zoom") zoom();
  else if (name === "guess") guess();
  else if (name === "grid") grid();
}

document.querySelectorAll("#actions button").forEach((button) =>
  button.addEventListener("click", () => {
    act(button.dataset.act);
    if (button.dataset.act !== "new") button.blur();
  }),
);

// ── classes ──

function classes() {
  if (!view.classes) return;
  const shortcuts = keys();
  const buttons = view.classes.map((name, label) => {
    const button = document.createElement("button");
    button.dataset.label = label;
    if (shortcuts[label]) {
      const key = document.createElement("kbd");
      key.textContent = shortcuts[label];
      button.append(key);
      button.setAttribute("aria-keyshortcuts", shortcuts[label]);
    }
    if (shortcuts[label] !== name.toLowerCase()) button.append(name);
    else button.setAttribute("aria-label", name);
    const most = view.classes.length > 20 ? 1 : 3;
    button.append(...(view.examples?.[label] ?? []).slice(0, most).map(thumbnail));
    button.addEventListener("click", () => {
      ask({ name: "label", label });
      button.blur();
    });
    return button;
  });
  $("classes").replaceChildren(...buttons);
  $("find").hidden = view.classes.length <= 10;
  sieve();
}

function thumbnail(image) {
  const found = new Image();
  Object.assign(found, { src: address(image), alt: "", loading: "lazy", className: small() ? "pixels" : "" });
  return found;
}

const address = (image) => `/image/${view.version}/${image}.png`; // the browser may keep what it names
const small = () => view.size && Math.max(...view.size) < 200;

// Show the classes whose name has what is typed; those that begin with it come first, and the first is chosen by Enter.
function sieve() {
  const typed = $("filter").value.trim().toLowerCase();
  const buttons = [...document.querySelectorAll("#classes button")];
  const name = (button) => view.classes[button.dataset.label].toLowerCase();
  for (const button of buttons) {
    button.hidden = !$("find").hidden && !name(button).includes(typed);
    button.classList.remove("first");
    button.style.order = name(button).startsWith(typed) ? 0 : 1;
  }
  if (typed) first()?.classList.add("first");
}

function first() {
  const left = [...document.querySelectorAll("#classes button:not([hidden])")];
  return left.sort((one, other) => one.style.order - other.style.order || one.dataset.label - other.dataset.label)[0];
}

function choose() {
  if ($("filter").value.trim() && first()) ask({ name: "label", label: Number(first().dataset.label) });
  $("filter").value = "";
}

$("filter").addEventListener("input", sieve);

function add() {
  if (current() === null) return;
  $("new-name").value = "";
  $("new-trouble").textContent = "";
  naming = current();
  $("new-class").showModal();
}

let naming = null; // the image that a class is named for

$("new-class").querySelector("form").addEventListener("submit", async (event) => {
  if (event.submitter?.value === "") return;
  event.preventDefault();
  if (naming === null) return; // Enter came twice
  const image = naming;
  naming = null;
  try {
    const { label } = await sent("/api/classes", { who: who(), name: $("new-name").value });
    $("new-class").close();
    await look();
    ask({ name: "label", label, image });
  } catch (error) {
    naming = image;
    $("new-trouble").textContent = $("new-name").value.trim() ? error.message : "Type a name first.";
  }
});

// ── what is seen ──

function picture(image) {
  if (!pictures.has(image)) {
    const found = new Image();
    found.src = address(image);
    found.alt = `image ${image}`;
    found.addEventListener("error", () => setTimeout(() => (found.src = address(image)), 1000));
    if (small()) found.className = "pixels";
    pictures.set(image, found);
    if (pictures.size > 60) pictures.delete(pictures.keys().next().value);
  }
  return pictures.get(image);
}

function show() {
  const asking = view.phase.name === "asking";
  document.title = asking ? `${answered.size} of ${view.images.length}: robal` : "robal: label images";
  $("title").textContent = `robal, ${view.run}`;
  const image = asking ? current() : null;
  if (asking) {
    const round = `round ${view.round} of ${view.rounds}`;
    $("progress").textContent = `${round}: ${answered.size} of ${view.images.length}${rate()}`;
    Object.assign($("bar"), { max: view.images.length, value: answered.size });
  } else $("progress").textContent = "";
  $("bar").hidden = !asking;
  const grid = image !== null && many && deciding() === null && tiles();
  if (!grid) many = false;
  $("grid").hidden = !grid;
  $("single").hidden = image === null || grid;
  $("rest").hidden = image !== null;
  if (image === null) rest();
  else if (!grid) one(image);
}

function rate() {
  const now = Date.now();
  since = since.filter((when) => now - when < 60_000);
  if (since.length < 3) return "";
  const minutes = (now - since[0]) / 60_000;
  const each = (since.length - 1) / Math.max(minutes, 1 / 600);
  const left = Math.ceil(open().length / each);
  return `, ${Math.round(each)} a minute, ${left <= 1 ? "about a minute" : `${left} minutes`} left`;
}

function one(image) {
  if (frame !== image || !$("picture").firstChild) $("picture").replaceChildren(picture(image));
  frame = image;
  const dispute = deciding();
  const others = dispute ? `; people disagree: ${dispute.votes.map(([name, label]) => `${name} says ${named(label)}`).join(", ")}. Decide.` : "";
  $("caption").textContent = `Image ${image}${others}`;
  open().slice(1, 12).forEach(picture);
  $("guess").hidden = !(guesses && seen.has(image));
  if (!$("guess").hidden) $("guess").textContent = `The model says ${image in guesses.of ? named(guesses.of[image]) : "nothing"}`;
  for (const name of ["guess", "grid"]) document.querySelector(`[data-act=${name}]`).hidden = !view.can_guess;
}

function zoom() {
  const large = document.body.classList.toggle("large");
  document.querySelector("[data-act=zoom]").setAttribute("aria-pressed", large);
}

async function guessed() {
  if (!guesses) guesses = { round: view.round, of: await sent("/api/guesses") };
}

async function guess() {
  const image = current();
  if (!view.can_guess || image === null) return;
  await guessed();
  seen.add(image);
  keep();
  show();
}

// ── grid: twenty images that look alike to the model ──

async function grid() {
  if (!view.can_guess) return;
  await guessed();
  many = true;
  show();
  if (!many) trouble("No images left that could be shown together.");
}

let shown = []; // the images in the grid

function tiles() {
  const left = open().filter((image) => !odd.has(image) && image in guesses.of);
  if (!left.length) return false;
  const groups = Map.groupBy(left, (image) => guesses.of[image]);
  const [label, alike] = [...groups].sort((one, other) => other[1].length - one[1].length || one[0] - other[0])[0];
  const images = alike.slice(0, 20);
  if (images.join() === shown.join() && $("tiles").childElementCount) return true;
  shown = images;
  const buttons = images.map((image) => {
    seen.add(image);
    const button = document.createElement("button");
    button.setAttribute("aria-pressed", "false");
    button.setAttribute("aria-label", `image ${image}`);
    button.dataset.image = image;
    button.append(picture(image).cloneNode());
    button.firstChild.alt = "";
    button.addEventListener("click", () => {
      button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") !== "true");
      title();
    });
    return button;
  });
  keep();
  $("tiles").replaceChildren(...buttons);
  $("grid").dataset.label = label;
  title();
  return true;
}

const chosen = (pressed) => [...document.querySelectorAll(`#tiles [aria-pressed="${pressed}"]`)].map((button) => Number(button.dataset.image));

function title() {
  const name = named(Number($("grid").dataset.label));
  $("grid-title").textContent = `The model takes these ${shown.length} for ${name}`;
  $("grid-save").textContent = `Save ${chosen(false).length} as ${name}`;
}

function turn(label) {
  const images = label === null ? [] : chosen(false);
  for (const image of label === null ? shown : chosen(true)) odd.add(image);
  shown = [];
  if (images.length) ask({ name: "all", images, label });
  else show();
}

function leave() {
  many = false;
  show();
}

$("grid-save").addEventListener("click", () => turn(Number($("grid").dataset.label)));
$("grid-pass").addEventListener("click", () => turn(null));
$("grid-leave").addEventListener("click", leave);

// ── when there is nothing to answer ──

function rest() {
  const phase = view.phase;
  let [heading, text, button] = ["", "", ""];
  $("rest-bar").hidden = true;
  if (phase.name === "asking") {
    if (view.missing.length) {
      heading = "You are done with this question";
      text = `${view.missing.length} of ${view.images.length} images wait for somebody else: ${view.answers} people are asked about each. They open the same link and give their own name.`;
    } else {
      heading = `All ${view.images.length} images have their label`;
      if (view.watch) button = view.round < view.rounds ? "Train, then ask again (Enter)" : "Train for the last time (Enter)";
      else text = `Close this page, stop the server by Ctrl-C, and go on with: robal resume ${view.folder}`;
    }
  } else if (phase.name === "training") {
    heading = "Training";
    const left = phase.seconds_left == null ? "" : phase.seconds_left < 60 ? ", less than a minute left" : `, ${Math.round(phase.seconds_left / 60)} minutes left`;
    text = phase.what ? `${phase.what}${left}` : "It begins.";
    $("rest-bar").hidden = false;
    if (phase.total) Object.assign($("rest-bar"), { max: phase.total, value: phase.done });
    else $("rest-bar").removeAttribute("value");
  } else if (phase.name === "done") {
    heading = "The run is finished";
    text = `Its report: ${phase.report}`;
  } else {
    heading = "The training stopped";
    text = phase.why;
    button = "Try again";
  }
  if ($("rest-title").textContent !== heading) $("rest-title").textContent = heading;
  if ($("rest-text").textContent !== text) $("rest-text").textContent = text;
  const percent = (rate) => `${(100 * rate).toFixed(0)} %`;
  const lines = view.finished.map((row) => {
    const robust = Object.entries(row.robust_accuracy).map(([attack, rate]) => `${percent(rate)} under ${attack}`);
    const rates = row.accuracy == null ? ["no test images to measure on"] : [`${percent(row.accuracy)} right`, ...robust];
    return `after round ${row.round}, ${row.labelled} labels: ${rates.join(", ")}`;
  });
  if ($("rest-rounds").childElementCount !== lines.length)
    $("rest-rounds").replaceChildren(...lines.map((line) => Object.assign(document.createElement("li"), { textContent: line })));
  $("go-on").textContent = button;
  $("go-on").hidden = !button;
  $("rest-undo").hidden = phase.name !== "asking" || !answered.size;
}

$("go-on").addEventListener("click", async () => {
  try {
    await sent("/api/go-on", {});
  } catch (error) {
    trouble(error.message);
  }
  odd = new Set();
  await look();
});
$("rest-undo").addEventListener("click", () => ask({ name: "undo" }));

// ── begin ──

if ($("who").value) localStorage.setItem("who", $("who").value.trim()); // typed while this was still on its way
else $("who").value = localStorage.getItem("who") ?? "";
$("who").addEventListener("change", () => {
  localStorage.setItem("who", $("who").value.trim());
  look();
});
addEventListener("focus", () => !busy && view && look()); // another tab may have answered
setInterval(() => !busy && view && (view.phase.name !== "asking" || current() === null) && look(), 1000);

(async () => {
  busy = true;
  await look();
  if (flight) await land();
  busy = false;
  work();
})();
