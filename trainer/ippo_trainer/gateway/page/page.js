// The page of a gateway: one conversation, from the customer's first message to how it ended.
// What it knows is in this tab alone (sessionStorage), so that a reload loses nothing.
"use strict";

const STATE = "ippo-conversation", KEY = "ippo-key";
const at = id => document.getElementById(id);
let state = load();

/* messages: as the gateway takes them; pending: the suggestion that waits for a reaction; result: how it ended. */
function fresh() {
  return {id: "page-" + random().slice(0, 16), messages: [], pending: null, result: null};
}

function load() {
  try {
    return JSON.parse(sessionStorage.getItem(STATE)) || fresh();
  } catch {
    return fresh();
  }
}

function save() {
  sessionStorage.setItem(STATE, JSON.stringify(state));
}

function random() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), byte => byte.toString(16).padStart(2, "0")).join("");
}

class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, body, idempotencyKey) {
  const headers = {"Content-Type": "application/json"};
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = "Bearer " + key;
  if (idempotencyKey) headers["Idempotency-Key"] = idempotencyKey;
  let answer;
  try {
    answer = await fetch(path, {method: "POST", headers, body: JSON.stringify(body)});
  } catch {
    throw new Refusal(0, "The gateway does not answer. Try again.");
  }
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refusal(answer.status, value.error?.message || `The gateway says ${answer.status}.`);
  return value;
}

const ofConversation = rest => `/v1/conversations/${encodeURIComponent(state.id)}/${rest}`;

/* Does something that takes a while: one at a time, with what went wrong on the page. What it returns gets the focus. */
async function during(words, work) {
  let next = null;
  for (const button of document.querySelectorAll("button")) button.disabled = true;
  at("problem").hidden = true;
  at("progress").textContent = words;
  try {
    next = await work();
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    at("problem").textContent = error.message;
    at("problem").hidden = false;
    at("key-form").hidden = error.status !== 401 && error.status !== 403;
    if (!at("key-form").hidden) next = "key";
  } finally {
    at("progress").textContent = "";
    for (const button of document.querySelectorAll("button")) button.disabled = false;
    if (next) at(next).focus();
  }
}

async function suggest(message) {
  const messages = [...state.messages, {role: "user", content: message}];
  const answer = await ask("/v1/chat/completions", {messages, metadata: {conversation_id: state.id}});
  const [choice] = answer.choices;
  state.messages = messages;
  state.pending = {
    id: answer.id, turn: answer.turn, text: choice.abstained ? null : choice.message.content, key: random(),
  };
  at("message").value = "";
  show();
  return state.pending.text === null ? "own" : "accept";
}

async function react(reaction, sent) {
  const {id, turn, text, key} = state.pending;
  const body = {reaction, suggestion_id: id};
  if (reaction !== "accepted") body.sent = sent;
  await ask(ofConversation(`turns/${turn}/reaction`), body, `${key}-${reaction}`);
  state.messages.push({role: "assistant", content: sent, suggestion: text, reaction});
  state.pending = null;
  show();
  return "message";
}

async function end(outcome, words) {
  state.ending = state.ending || random();
  save();
  if (outcome !== null) await ask(ofConversation("outcome"), {outcome}, `${state.ending}-outcome`);
  await ask(ofConversation("close"), {}, `${state.ending}-close`);
  state.result = words;
  show();
  return "new";
}

function show() {
  save();
  const {messages, pending, result} = state;
  at("name").textContent = state.id;
  at("transcript").replaceChildren(...messages.map(line), ...(result ? [line({content: result, role: "note"})] : []));
  at("customer-form").hidden = pending !== null || result !== null;
  at("suggestion").hidden = pending === null;
  at("end").hidden = result !== null || pending !== null || messages.length === 0;
  if (pending !== null) {
    const silent = pending.text === null;
    at("suggested").textContent = silent ? "The policy suggests nothing." : pending.text;
    write(silent ? "rejected" : null);
  }
}

function line(message) {
  const item = document.createElement("li");
  const business = message.role === "assistant";
  item.className = business ? "business" : "customer";
  const note = document.createElement("span");
  note.className = "note";
  note.textContent = business ? `Business, ${message.reaction}` : message.role === "note" ? "End" : "Customer";
  item.append(note, message.content);
  return item;
}

/* Opens the field for what is sent instead; null closes it. */
function write(reaction) {
  at("own-form").hidden = reaction === null;
  at("choices").hidden = reaction !== null;
  at("own-form").dataset.reaction = reaction || "";
  at("own-label").textContent = reaction === "edited" ? "What you send" : "What you send instead";
  at("own").value = reaction === "edited" ? state.pending.text : "";
  at("back").hidden = state.pending.text === null;
}

function open(reaction) {
  write(reaction);
  at("own").focus();
}

function own() {
  const text = at("own").value.trim();
  if (!text) {
    at("problem").textContent = "Write what you send to the customer.";
    at("problem").hidden = false;
    at("own").focus();
    return;
  }
  const {pending} = state, edited = at("own-form").dataset.reaction === "edited";
  const reaction = edited && text === pending.text ? "accepted" : edited ? "edited" : "rejected";
  during("The reaction is reported …", () => react(reaction, text));
}

function submitted(form, action) {
  at(form).addEventListener("submit", event => {
    event.preventDefault();
    action();
  });
}

submitted("customer-form", () => during("The policy thinks …", () => suggest(at("message").value.trim())));
submitted("own-form", own);
submitted("key-form", () => {
  sessionStorage.setItem(KEY, at("key").value.trim());
  at("key").value = "";
  at("key-form").hidden = at("problem").hidden = true;
});
for (const phrase of at("phrases").children) {
  phrase.addEventListener("click", () => {
    at("message").value = phrase.textContent;
    at("customer-form").requestSubmit();
  });
}
at("accept").addEventListener("click", () => {
  during("The reaction is reported …", () => react("accepted", state.pending.text));
});
at("edit").addEventListener("click", () => open("edited"));
at("reject").addEventListener("click", () => open("rejected"));
at("back").addEventListener("click", () => {
  write(null);
  at("accept").focus();
});
at("won").addEventListener("click", () => during("The end is reported …", () => end(true, "With the outcome.")));
at("lost").addEventListener("click", () => during("The end is reported …", () => end(false, "Without the outcome.")));
at("open").addEventListener("click", () => during("The end is reported …", () => end(null, "The outcome is not known yet.")));
at("new").addEventListener("click", () => {
  state = fresh();
  at("problem").hidden = true;
  show();
  at("message").focus();
});
document.addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) event.target.form?.requestSubmit();
});
show();
