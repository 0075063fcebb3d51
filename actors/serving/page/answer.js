// The answer, as it is written and when it is complete. What a model or a user wrote reaches the page as text only.

const number = (value, digits = 3) => value.toLocaleString("en", { maximumFractionDigits: digits });
const percent = (share) => `${number(100 * share, 0)} %`;
const plural = (count, word) => `${number(count)} ${word}${count === 1 ? "" : "s"}`;
const response = (index) => `Response ${index + 1}`;

/** Names in a row: "1, 2 and 3". */
const listed = (names) => (names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`);

/** An element with properties and children; text children become text nodes. */
export function el(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children.flat().filter((child) => child !== null && child !== ""));
  return element;
}

function facts(pairs) {
  return el("dl", { className: "facts" }, pairs.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, value))));
}

/** The verdict on the responses `a` and `b` in words. */
function ruled(verdict, a, b) {
  if (verdict === null) return "No verdict";
  return verdict === "tie" ? "A tie" : `${response(verdict === "a" ? a : b)} is better`;
}

/** What a comparison came to, in words. */
function outcome({ verdict, consistent }, a, b) {
  return verdict === null && consistent === false ? "It depends on the order" : ruled(verdict, a, b);
}

/** Why a pair's judgements came to what they came to. */
function because({ verdict, confidence, consistent, judgements }) {
  if (verdict !== null) {
    const share = `Confidence ${percent(confidence)}: the share of ${plural(judgements.length, "judgement")} that said so.`;
    if (consistent === null) return share;
    return `${share} ${consistent ? "Both orders agree." : "Taken by itself, each order comes to another verdict."}`;
  }
  if (consistent === false) {
    const won = new Set(judgements.map((one) => (one.verdict === "tie" ? "tie" : one.verdict === one.order[0])));
    const which =
      won.size > 1 || won.has("tie")
        ? "The two orders came to different verdicts"
        : `Whichever was shown ${won.has(true) ? "first" : "second"} was found better`;
    return `${which}, so there is no verdict on the responses themselves.`;
  }
  const cut = judgements.filter((one) => one.truncated).length;
  const none = judgements.filter((one) => one.verdict === null).length;
  if (cut) return `${plural(cut, "judgement")} of ${judgements.length} ran into the limit of tokens. Allow longer judgements.`;
  const said = "neither which response is better nor that they are equally good";
  return `${plural(none, "judgement")} of ${judgements.length} said ${said}.`;
}

/** A section's text, with the tags of the sections inside it shown as marks. */
function marked(text, inner) {
  const element = el("div", { className: "text", tabIndex: 0 });
  const [first, ...rest] = inner.length ? text.split(new RegExp(`<\\s*(/?)\\s*(${inner.join("|")})\\s*>`, "i")) : [text];
  element.append(first);
  for (let at = 0; at < rest.length; at += 3) {
    const [slash, tag, after] = rest.slice(at, at + 3);
    if (slash) element.append(after);
    else element.append(el("span", { className: "tag" }, tag.replace("_", " ")), el("em", {}, after));
  }
  return element;
}

function sections(found) {
  const names = Object.keys(found);
  const holds = (text, name) => text.toLowerCase().includes(`<${name.toLowerCase()}>`);
  const within = (name) => names.some((other) => other !== name && holds(found[other], name));
  const inner = names.filter(within);
  return names
    .filter((name) => !inner.includes(name))
    .flatMap((name) => [el("h4", {}, name.replace("_", " ")), marked(found[name], inner)]);
}

/** One judgement: a text that grows, and then its sections. */
class Sample {
  constructor(folded, name) {
    this.name = name;
    this.text = el("div", { className: "text writing", tabIndex: 0 });
    this.title = el("summary", {}, name);
    this.title.hidden = !folded;
    this.root = el(folded ? "details" : "div", { className: "sample" }, this.title, this.text);
  }

  says(words) {
    this.title.textContent = `${this.name}: ${words}`;
  }

  about(note) {
    this.title.after(el("p", { className: "note" }, note));
  }

  write(text) {
    const follows = this.text.scrollTop + this.text.clientHeight >= this.text.scrollHeight - 8;
    this.text.append(text);
    if (follows) this.text.scrollTop = this.text.scrollHeight;
  }

  complete(judgement) {
    const shown = sections(judgement.sections);
    const notes = [`${number(judgement.prompt_tokens)} tokens read`, `${number(judgement.completion_tokens)} written`];
    if (judgement.truncated) notes.push("cut off");
    if (judgement.ratings) notes.push(`ratings ${judgement.ratings.map((one) => number(one)).join(", ")}`);
    const title = el("summary", {}, "As the judge wrote it");
    const raw = shown.length ? [el("details", {}, title, el("pre", {}, judgement.text))] : [];
    if (!shown.length) shown.push(el("div", { className: "text", tabIndex: 0 }, judgement.text));
    this.root.replaceChildren(this.title, ...shown, el("small", {}, notes.join(" · ")), ...raw);
  }
}

/** All judgements in one order, or of a list. */
class Column {
  constructor(order, votes) {
    Object.assign(this, { order, votes, samples: new Map() });
    this.title = el("strong");
    this.says = el("span");
    this.note = el("p", { className: "note" });
    this.root = el("div", { className: "judge" }, el("p", {}, this.title, " ", this.says), this.note);
  }

  /** Say who was shown as what, once that is known. */
  name(a, b) {
    const [first, second] = this.order === "ab" ? [a, b] : [b, a];
    this.title.textContent = `${response(first)} shown first`;
    const [called, other] = [first, second].map((index) => response(index).toLowerCase());
    this.note.textContent = `Here the judge calls ${called} “A” and ${other} “B”.`;
  }

  sample(index) {
    if (!this.samples.has(index)) {
      const sample = new Sample(this.votes > 1, this.votes > 1 ? `Vote ${index + 1}` : "");
      if (this.votes > 1) sample.root.open = index === 0;
      this.samples.set(index, sample);
      const later = [...this.samples.keys()].filter((other) => other > index).sort((x, y) => x - y)[0];
      this.root.insertBefore(sample.root, later === undefined ? null : this.samples.get(later).root);
    }
    return this.samples.get(index);
  }
}

/** One comparison of two responses, in one order or in both; or one listwise judgement. */
class Comparison {
  constructor(index, votes, alone, open) {
    Object.assign(this, { votes, columns: new Map(), given: [] });
    this.title = el("h3", {}, alone ? "" : `Comparison ${index + 1}`);
    this.says = el("span", { className: "note" });
    this.two = el("div", { className: "two" });
    this.root = alone
      ? el("article", { className: "comparison alone" }, this.two)
      : el("details", { className: "comparison", open }, el("summary", {}, this.title, this.says), this.two);
  }

  between(a, b) {
    Object.assign(this, { a, b });
    this.title.textContent = `${response(a)} and ${response(b).toLowerCase()}`;
    for (const column of this.columns.values()) column.name(a, b);
  }

  column(order) {
    const key = order ?? "list";
    if (!this.columns.has(key)) {
      const column = new Column(key, this.votes);
      this.columns.set(key, column);
      if (this.a !== undefined) column.name(this.a, this.b);
      else if (key !== "list") column.title.textContent = key === "ab" ? "One order" : "The other order";
      this.two.insertBefore(column.root, key === "ab" ? this.two.firstChild : null);
    }
    return this.columns.get(key);
  }

  delta({ order, sample, text }) {
    this.column(order).sample(sample).write(text);
  }

  judgement(one) {
    this.given.push(one);
    this.column(one.order).sample(one.sample).complete(one);
    if (this.a !== undefined) this.mark(null);
  }

  /** Say above each column what its judgements say, and whether that is what the comparison came to. */
  mark(result) {
    for (const column of this.columns.values()) {
      const mine = this.given.filter((one) => one.order === column.order);
      const said = mine.map((one) => ruled(one.verdict, this.a, this.b));
      if (this.votes > 1) mine.forEach((one, at) => column.sample(one.sample).says(said[at]));
      const counts = [...new Set(said)].map((words) => [words, said.filter((one) => one === words).length]);
      column.says.textContent = counts.map(([words, count]) => (this.votes > 1 ? `${words}: ${count}` : words)).join(", ");
      if (!result) continue;
      const agrees = result.verdict !== null && said.every((words) => words === ruled(result.verdict, this.a, this.b));
      column.root.classList.toggle("right", agrees);
      column.root.classList.toggle("wrong", result.consistent === false);
    }
  }

  complete(result, a, b) {
    this.between(a, b);
    const known = new Set(this.given.map((one) => `${one.order} ${one.sample}`));
    for (const one of result.judgements) if (!known.has(`${one.order} ${one.sample}`)) this.judgement(one);
    const same = "The two are the same text: a tie, and the judge was not asked.";
    if (result.identical) this.two.append(el("p", { className: "note" }, same));
    this.says.textContent = outcome(result, a, b);
    this.says.className = result.verdict === null ? "worse" : "better";
    this.mark(result);
  }
}

/** The judgements of all responses at once. */
class Listing extends Comparison {
  constructor(votes) {
    super(0, votes, true, true);
  }

  judgement(one) {
    const column = this.column(null);
    const letters = one.shown.map((index, at) => `${response(index).toLowerCase()} “${String.fromCharCode(65 + at)}”`);
    const sample = column.sample(one.sample);
    sample.complete(one);
    sample.about(`Here the judge calls ${listed(letters)}.`);
    if (this.votes > 1) sample.says(one.ratings ? "rated" : "no ratings");
  }
}

/** The whole answer to one request; `expected` judgements are on their way. */
export class Answer {
  constructor(root, { path, body }, expected) {
    Object.assign(this, { root, body, expected, ranks: path === "rank", judged: 0, compared: 0, comparisons: new Map() });
    this.began = performance.now();
    this.list = el("div");
    root.replaceChildren(...(this.ranks ? [el("h3", { className: "heading" }, "Judgements")] : []), this.list);
    root.hidden = false;
    if (!this.ranks) this.comparison(0).between(0, 1);
  }

  get seconds() {
    return (performance.now() - this.began) / 1000;
  }

  get progress() {
    const of = this.body.early_stop ? `at most ${this.expected}` : this.expected;
    return `${this.judged} of ${of} judgements · ${this.seconds.toFixed(1)} s`;
  }

  comparison(index) {
    if (!this.comparisons.has(index)) {
      const votes = this.body.votes ?? 1;
      const both = (this.body.order ?? "both") === "both";
      const made =
        this.body.method === "listwise"
          ? new Listing(both ? 2 * votes : votes)
          : new Comparison(index, votes, !this.ranks, index === 0);
      this.comparisons.set(index, made);
      const later = [...this.comparisons.keys()].filter((other) => other > index);
      this.list.insertBefore(made.root, later.length ? this.comparisons.get(Math.min(...later)).root : null);
    }
    return this.comparisons.get(index);
  }

  /** Take one event of the stream; returns the verdict in words when it is the last. */
  take(event, data) {
    if (data.a !== undefined && event !== "comparison") this.comparison(data.comparison).between(data.a, data.b);
    if (event === "delta") this.comparison(data.comparison).delta(data);
    else if (event === "judgement") {
      this.judged += 1;
      this.comparison(data.comparison).judgement(data);
    } else if (event === "comparison") {
      this.comparison(this.compared).complete(data, data.a, data.b);
      this.compared += 1;
    } else if (event === "result") return this.ranks ? this.ranking(data) : this.verdict(data);
    return null;
  }

  /** Nothing more comes, whether the answer is complete or not. */
  end() {
    for (const element of this.root.querySelectorAll(".writing")) element.classList.remove("writing");
  }

  about({ usage, model, version, format }) {
    return facts([
      ["Judgements", number(usage.judgements)],
      ["Tokens read", number(usage.prompt_tokens)],
      ["Tokens written", number(usage.completion_tokens)],
      ["Seconds", this.seconds.toFixed(1)],
      ["Judge", `${model}, version ${version}`],
      ["Prompt format", format],
    ]);
  }

  verdict(result) {
    this.comparison(0).complete(result, 0, 1);
    const title = outcome(result, 0, 1);
    this.root.prepend(el("h2", {}, title), el("p", {}, because(result)), this.about(result));
    return title;
  }

  ranking(result) {
    const judged = result.comparisons.length || result.listings.length;
    const unit = result.comparisons.length ? "comparison" : "judgement";
    const [best] = result.ranking;
    const names = listed(best.map((one) => one + 1));
    let title = best.length === 1 ? `Response ${names} is best` : `Responses ${names} share first place`;
    if (result.no_verdict === judged) title = "No verdict";
    const count = result.no_verdict === 1 ? "counts" : "count";
    const note = result.no_verdict
      ? `${number(result.no_verdict)} of ${plural(judged, unit)} ended without a verdict and ${count} for nobody.`
      : `From ${plural(judged, unit)}, each with a verdict.`;
    this.root.prepend(el("h2", {}, title), el("p", {}, note), this.table(result), this.about(result));
    return title;
  }

  table(result) {
    const [low, high] = this.body.scale ?? [0, 1];
    const names = { win_rate: "Win rate", rounds: "Rounds survived", mean_rating: "Mean rating" }; // the page asks for no other
    const place = (index) => 1 + result.scores.filter((score) => score > result.scores[index]).length;
    const rows = result.ranking.flat().map((index) => {
      const bar = el("i");
      bar.style.width = `${(100 * (result.scores[index] - low)) / (high - low)}%`;
      const text = el("small", {}, this.body.responses[index].slice(0, 300));
      const name = el("th", { scope: "row" }, response(index), text, el("span", { className: "track" }, bar));
      return el("tr", {}, el("td", { className: "place" }, place(index)), name, el("td", {}, number(result.scores[index])));
    });
    const heads = ["Place", "Response", `${names[result.aggregation]}, ${number(low)} to ${number(high)}`];
    const head = el("tr", {}, heads.map((text) => el("th", { scope: "col" }, text)));
    return el("table", { className: "ranking" }, el("thead", {}, head), el("tbody", {}, rows));
  }
}
