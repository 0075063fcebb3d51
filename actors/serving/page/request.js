// The request that the form describes: as the server takes it, as curl, as Python, and its answer as it comes.

/** Path and body of a request. `options` has only what is to be sent; those of a ranking alone are in `ranking`. */
export function asked({ prompt, responses, options, ranking }) {
  if (responses.length === 2) {
    return { path: "judge", body: { prompt, response_a: responses[0], response_b: responses[1], ...options } };
  }
  const identical = new Set(responses).size < responses.length ? { duplicates: "tie" } : {};
  return { path: "rank", body: { prompt, responses, ...ranking, ...identical, ...options } };
}

/** How many judgements a request asks for at most. */
export function judgements({ path, body }) {
  const both = (body.order ?? "both") === "both";
  const each = (both ? 2 : 1) * (body.votes ?? 1);
  if (path === "judge") return each;
  const n = body.responses.length;
  const comparisons = { round_robin: (n * (n - 1)) / 2, circular: n, knockout: n - 1, listwise: 1 };
  return each * comparisons[body.method ?? "round_robin"];
}

const quoted = (text) => `'${text.replaceAll("'", String.raw`'\''`)}'`;

/** The request as a command for a POSIX shell. */
export function curl(url, { body }, withKey) {
  const lines = [`curl -sS ${quoted(url)}`, "-H 'Content-Type: application/json'"];
  if (withKey) lines.push('-H "Authorization: Bearer $GAVEL_API_KEY"');
  return [...lines, `-d ${quoted(JSON.stringify(body))}`].join(" \\\n  ");
}

/** A JSON value as a Python literal. JSON's escapes in strings are Python's too. */
function literal(value, indent) {
  if (value === true) return "True";
  if (Array.isArray(value) && value.some((one) => typeof one === "string")) {
    const items = value.map((one) => `${indent}    ${literal(one, "")},\n`);
    return `[\n${items.join("")}${indent}]`;
  }
  return Array.isArray(value) ? `[${value.join(", ")}]` : JSON.stringify(value);
}

/** The request as a Python program that prints the answer. */
export function python(url, { body }, withKey) {
  const fields = Object.entries(body).map(([name, value]) => `        "${name}": ${literal(value, "        ")},\n`);
  return [
    ...(withKey ? ["import os", ""] : []),
    "import httpx",
    "",
    "answer = httpx.post(",
    `    ${literal(url, "")},`,
    ...(withKey ? ['    headers={"Authorization": f"Bearer {os.environ[\'GAVEL_API_KEY\']}"},'] : []),
    `    json={\n${fields.join("")}    },`,
    "    timeout=600,",
    ")",
    "answer.raise_for_status()",
    "print(answer.json())",
  ].join("\n");
}

/** What was wrong with a request: `detail` is a text, or the list of fields of a 422. */
export class Refused extends Error {
  constructor(status, detail, retryAfter) {
    super(`HTTP ${status}`);
    Object.assign(this, { status, detail, retryAfter });
  }
}

export const authorization = (key) => (key ? { Authorization: `Bearer ${key}` } : {});

async function refusal(answer) {
  const text = await answer.text();
  let detail = text;
  try {
    detail = JSON.parse(text).detail ?? text;
  } catch {
    // a proxy in front of the server answers in its own words
  }
  return new Refused(answer.status, detail, answer.headers.get("Retry-After"));
}

/** Yields [event, data] as the server sends them. Raises Refused where it does not take the request. */
export async function* stream(url, { body }, key, signal) {
  const answer = await fetch(url, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...authorization(key) },
    body: JSON.stringify({ ...body, stream: true }),
    credentials: "omit",
    signal,
  });
  if (!answer.ok) throw await refusal(answer);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (held + value).split("\n\n");
    held = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n");
      const name = lines.find((line) => line.startsWith("event:"))?.slice(6).trim();
      const data = lines.filter((line) => line.startsWith("data:")).map((line) => line.slice(5)).join("\n");
      if (name && data) yield [name, JSON.parse(data)];
    }
  }
}
