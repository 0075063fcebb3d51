// The page: a form, and the judge's answer to it. Its parts are request.js (what is sent) and answer.js (what is shown).
import { Answer, el } from "./answer.js";
import { asked, authorization, curl, judgements, python, Refused, stream } from "./request.js";

const FEWEST = 2;
const MOST = 8; // responses that a person can look over
const COPIED = 2000; // ms for which a button says so
const EXAMPLE = { prompt: "Compute 3+4-2.", responses: ["5", "6"] };
const KEY = "gavel-api-key";
const WRONG_KEY = "The server does not take this API key. Check it, and that it has not expired.";
const UNREACHABLE = "The server cannot be reached. Is it running, and this computer online?";
const OPTIONS = ["order", "votes", "early_stop", "temperature", "seed", "max_tokens"];

const $ = (id) => document.getElementById(id);
const form = $("form");
const mac = /Mac|iPhone|iPad/.test(navigator.platform);
let most = MOST;
let running = null; // AbortController of the request in progress

// --- responses -------------------------------------------------------------------------------------------------------

const fields = () => [...$("responses").querySelectorAll("textarea")];

function addResponse(text = "") {
  const area = el("textarea", { rows: 4, value: text });
  const remove = el("button", { type: "button" }, "Remove");
  remove.setAttribute("aria-keyshortcuts", "Alt+Shift+Backspace");
  remove.addEventListener("click", () => removeResponse(area));
  const head = el("div", { className: "head" }, el("label"), remove);
  $("responses").append(el("div", { className: "field" }, head, area, el("p", { className: "problem", hidden: true })));
  number();
  return area;
}

function removeResponse(area) {
  const at = fields().indexOf(area);
  if (at < 0 || fields().length <= FEWEST) return;
  area.closest(".field").remove();
  number();
  (fields()[at] ?? fields().at(-1)).focus();
  changed();
}

/** Name the responses by their place, and offer what their number allows. */
function number() {
  const all = fields();
  all.forEach((area, index) => {
    const field = area.closest(".field");
    const [label, button, problem] = ["label", "button", ".problem"].map((one) => field.querySelector(one));
    area.id = `response-${index}`;
    label.htmlFor = area.id;
    label.textContent = `Response ${index + 1}`;
    problem.id = `${area.id}-problem`;
    area.setAttribute("aria-describedby", problem.id);
    button.hidden = all.length <= FEWEST;
    button.setAttribute("aria-label", `Remove response ${index + 1}`);
  });
  $("add").disabled = all.length >= most;
  $("methods").hidden = $("scales").hidden = all.length === FEWEST;
}

function add() {
  if (fields().length >= most) return;
  addResponse().focus();
  changed();
}

// --- what the form asks ----------------------------------------------------------------------------------------------

/** What a control says, if that is not what stood there from the beginning. */
function chosen(control) {
  if (control.type === "checkbox") return control.checked || undefined;
  if (control.tagName === "SELECT") return control.selectedIndex === 0 ? undefined : control.value;
  return control.value === "" || control.value === control.defaultValue ? undefined : control.valueAsNumber;
}

function request() {
  const given = OPTIONS.map((name) => [name, chosen($(name))]);
  const options = Object.fromEntries(given.filter(([, value]) => value !== undefined));
  const ranking = {};
  if (chosen($("method"))) ranking.method = chosen($("method"));
  if (chosen($("low")) !== undefined || chosen($("scale")) !== undefined) {
    ranking.scale = [$("low"), $("scale")].map((one) => (one.value === "" ? Number(one.defaultValue) : one.valueAsNumber));
  }
  return asked({ prompt: $("prompt").value, responses: fields().map((area) => area.value), options, ranking });
}

const address = (path) => new URL(path, document.baseURI).href;

/** Write the request down as a program. */
function changed() {
  const now = request();
  const url = address(now.path);
  const withKey = $("key").value !== "";
  $("curl").textContent = curl(url, now, withKey);
  $("python").textContent = python(url, now, withKey);
  $("key-in-shell").hidden = !withKey;
}

// --- what is wrong ---------------------------------------------------------------------------------------------------

function clearProblems() {
  for (const control of document.querySelectorAll("[aria-invalid]")) control.removeAttribute("aria-invalid");
  for (const text of form.querySelectorAll(".problem")) Object.assign(text, { hidden: true, textContent: "" });
  $("problem").textContent = "";
}

/** Say beside a control what is wrong with it. */
function blame(control, message) {
  const text = $(control.getAttribute("aria-describedby").split(" ").at(-1));
  text.textContent = text.textContent ? `${text.textContent} ${message}` : message;
  text.hidden = false;
  control.setAttribute("aria-invalid", "true");
  if ($("options").contains(control)) $("options").open = true;
  if ($("access").contains(control)) showAccess(true);
}

/** The control of a field of the request. */
function control(loc) {
  const [, name, index] = loc;
  if (name === "response_a") return $("response-0");
  if (name === "response_b") return $("response-1");
  if (name === "responses") return Number.isInteger(index) ? $(`response-${index}`) : null;
  return typeof name === "string" && form.elements[name] ? $(name) : null;
}

function focusFirst() {
  const wrong = form.querySelector("[aria-invalid=true]");
  if (!wrong) return;
  wrong.focus({ preventScroll: true });
  wrong.scrollIntoView({ block: "center" });
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}${text.endsWith(".") ? "" : "."}`;

function refused({ status, detail, retryAfter }) {
  const problem = (text) => ($("problem").textContent = text);
  if (status === 422 && Array.isArray(detail)) {
    for (const { loc, msg } of detail) {
      const found = control(loc);
      if (found) blame(found, `${msg}.`);
      else problem(`${$("problem").textContent} ${loc.slice(1).join(" ")} ${msg}.`.trim());
    }
  } else if (status === 401) {
    blame($("key"), $("key").value ? WRONG_KEY : "This server wants an API key. Give yours here.");
  } else if (status === 429 || status === 503) {
    const again = retryAfter ? ` Wait ${retryAfter} s before you judge again.` : "";
    problem(`${sentence(detail)}${again}`);
  } else {
    const said = typeof detail === "string" && detail.length < 500 && !detail.trimStart().startsWith("<") ? detail : "";
    problem(`The server refused the request (HTTP ${status})${said ? `: ${said}` : ""}.`);
  }
  focusFirst();
}

/** Numbers that the browser itself cannot read; all else is for the server to say. */
function unreadable() {
  const shown = [...form.querySelectorAll("input[type=number]")].filter((one) => one.offsetParent);
  const wrong = shown.filter((one) => one.validity.badInput || one.validity.stepMismatch);
  for (const one of wrong) blame(one, one.validationMessage);
  return wrong.length > 0;
}

// --- asking ----------------------------------------------------------------------------------------------------------

function busy(on) {
  $("judge").setAttribute("aria-disabled", String(on)); // and not disabled, which would lose the focus
  $("stop").hidden = !on;
  $("act").classList.toggle("running", on);
  $("answer").setAttribute("aria-busy", String(on));
}

/** Tell how things stand; `told` is for those who do not see what the page shows anyway. */
function say(text, told = false) {
  $("status").textContent = text;
  $("status").classList.toggle("told", told);
}

const still = matchMedia("(prefers-reduced-motion: reduce)");

async function judge() {
  if (running) return;
  clearProblems();
  say("");
  $("answer").hidden = true;
  if (unreadable()) return focusFirst();
  const now = request();
  const mine = (running = new AbortController());
  let answer = null;
  let clock;
  busy(true);
  say("Judging");
  const begin = () => {
    answer = new Answer($("answer"), now, judgements(now));
    const tell = () => ($("progress").textContent = answer.progress);
    tell();
    clock = setInterval(tell, 100);
    $("act").scrollIntoView({ behavior: still.matches ? "auto" : "smooth", block: "start" });
  };
  try {
    let title = null;
    for await (const [event, data] of stream(address(now.path), now, $("key").value, mine.signal)) {
      if (!answer) begin();
      if (event === "error" && Array.isArray(data.detail)) throw new Refused(422, data.detail);
      if (event === "error") throw new Error(sentence(data.detail));
      title = answer.take(event, data) ?? title;
    }
    if (!title) throw new TypeError();
    say(title, true);
  } catch (error) {
    say(error.name === "AbortError" ? "Stopped" : "");
    if (error.name === "AbortError") return;
    if (error instanceof Refused) refused(error);
    else if (!(error instanceof TypeError)) $("problem").textContent = error.message;
    else $("problem").textContent = answer ? "The connection ended before the verdict. Judge again." : UNREACHABLE;
  } finally {
    clearInterval(clock);
    $("progress").textContent = "";
    answer?.end();
    running = null;
    if (document.activeElement === $("stop")) $("judge").focus({ preventScroll: true });
    busy(false);
  }
}

// --- key, copying, keyboard ------------------------------------------------------------------------------------------

function showAccess(on) {
  $("access").hidden = !on;
  $("give-key").setAttribute("aria-expanded", String(on));
}

/** Learn what is being served, and whether the key is good. */
async function about() {
  clearProblems();
  let answer;
  try {
    answer = await fetch(address("version"), { headers: authorization($("key").value), credentials: "omit" });
  } catch {
    $("problem").textContent = UNREACHABLE;
    return;
  }
  if (answer.status === 401) {
    if ($("key").value) blame($("key"), WRONG_KEY);
    showAccess(true);
  }
  if (!answer.ok) return;
  const { model, version, format, limits, max_new_tokens } = await answer.json();
  $("served").textContent = `· ${model}, version ${version}, prompt format ${format}`;
  $("max_tokens").placeholder = `at most ${max_new_tokens}`;
  most = Math.min(MOST, limits.responses);
  number();
}

async function copy(button) {
  const text = $(button.dataset.copy);
  let copied = true;
  try {
    await navigator.clipboard.writeText(text.textContent);
  } catch {
    // not over plain HTTP, or not allowed: mark the text, which the older command copies
    getSelection().selectAllChildren(text);
    copied = document.execCommand("copy");
  }
  button.textContent = copied ? "Copied" : `Press ${mac ? "⌘" : "Ctrl"}+C`;
  say(button.textContent, true);
  setTimeout(() => (button.textContent = "Copy"), COPIED);
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  judge();
});
form.addEventListener("input", changed);
$("add").addEventListener("click", add);
$("stop").addEventListener("click", () => running?.abort());
$("example").addEventListener("click", () => {
  $("prompt").value = EXAMPLE.prompt;
  $("responses").replaceChildren();
  EXAMPLE.responses.forEach((text) => addResponse(text));
  clearProblems();
  changed();
});
$("give-key").addEventListener("click", () => {
  showAccess($("access").hidden);
  if (!$("access").hidden) $("key").focus();
});
$("key").addEventListener("change", () => {
  if ($("key").value) sessionStorage.setItem(KEY, $("key").value);
  else sessionStorage.removeItem(KEY);
  about();
});
for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", () => copy(button));
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) judge();
  else if (event.key === "Escape" && running) running.abort();
  else if (event.altKey && event.shiftKey && event.code === "KeyN") add();
  else if (event.altKey && event.shiftKey && event.code === "Backspace") removeResponse(document.activeElement);
  else return;
  event.preventDefault();
});

if (mac) {
  for (const key of document.querySelectorAll(".mod")) key.textContent = "⌘";
  for (const key of document.querySelectorAll(".alt")) key.textContent = "⌥";
}
$("key").value = sessionStorage.getItem(KEY) ?? "";
if ($("key").value) showAccess(true);
for (let count = 0; count < FEWEST; count += 1) addResponse();
changed();
about();
