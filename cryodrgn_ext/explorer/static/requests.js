// Requests to the server: paths are relative, so that each begins with the secret of the page's own address.

/** What the user reads at the top: what is going on, or what went wrong. */
export function say(text, wrong = false) {
  const line = document.getElementById("say");
  line.textContent = text;
  line.classList.toggle("wrong", wrong);
}

async function checked(response) {
  if (response.ok) return response;
  let sentence = `the server answered with status ${response.status}`;
  try {
    sentence = (await response.json()).error;
  } catch {
    // It was no JSON: the status must do.
  }
  throw new Error(sentence);
}

function reached(promise) {
  return promise.catch(() => {
    throw new Error("the explorer does not answer: is the program still running?");
  });
}

/** GET of plain values. */
export async function getPlain(path) {
  return (await checked(await reached(fetch(path)))).json();
}

/** GET of numbers of single precision. */
export async function getNumbers(path) {
  return new Float32Array(await (await checked(await reached(fetch(path)))).arrayBuffer());
}

/** GET of a file. */
export async function getFile(path) {
  return (await checked(await reached(fetch(path)))).blob();
}

/** GET of a map, on half its grid where it is large; says which. */
export async function getMap(path, whole = false) {
  const response = await checked(await reached(fetch(whole ? path : `${path}?grid=half`)));
  return { blob: await response.blob(), half: response.headers.get("x-grid") === "half" };
}

/** One result on the server. */
export class Result {
  constructor(number) {
    this.number = number;
    this.base = `api/results/${number}`;
  }

  async ask(what, values = {}) {
    const response = await reached(
      fetch(`${this.base}/${what}`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify(values),
      }),
    );
    return checked(response);
  }

  async plain(what, values) {
    return (await this.ask(what, values)).json();
  }

  async positions(recipe) {
    return new Uint32Array(await (await this.ask("positions", { recipe })).arrayBuffer());
  }

  column(key) {
    return getNumbers(`${this.base}/columns/${encodeURIComponent(key)}`);
  }

  async sendMask(name, file) {
    const response = await reached(fetch(`${this.base}/masks/${encodeURIComponent(name)}`, { method: "POST", body: file }));
    return (await checked(response)).json();
  }

  mapPath(name) {
    return `${this.base}/maps/${name.split("/").map(encodeURIComponent).join("/")}`;
  }
}

/** Do something that takes a while, and say so; what goes wrong is said, and not thrown further. */
export async function during(text, work, button = null) {
  say(`${text} …`);
  if (button) button.disabled = true;
  try {
    const found = await work();
    say("");
    return found;
  } catch (error) {
    say(error.message, true);
    return null;
  } finally {
    if (button) button.disabled = false;
  }
}
