// The stop and the images do not pass through the page's own connection: they work while it is busy or being restored.
const stopButton = document.getElementById("stop");
const stopSaid = document.getElementById("stop-said");
const PAUSE_MS = 500; // without a line a request fails at once
let asking = false;
let answer = null; // of the last stop: {ok, sentence}. One that was not confirmed stays until one is.
let lost = false; // no connection

function show() {
  const none = "No connection to the robot's computer: what you see is old, and a stop here does not reach it.";
  stopSaid.textContent = [answer ? answer.sentence : "", lost ? none : ""].filter(Boolean).join(" ");
  stopSaid.className = lost || !(answer && answer.ok) ? "bad" : "good";
}

function say(ok, sentence) {
  const said = answer = { ok, sentence };
  show();
  if (ok) setTimeout(() => { if (answer === said) { answer = null; show(); } }, 5000);
}

async function tryToStop() {
  try {
    const reply = await fetch("/estop", { method: "POST", signal: AbortSignal.timeout(2500) });
    if (!reply.ok) throw new Error(await reply.text());
    const { ok, sentence } = await reply.json();
    say(ok, ok ? sentence : `${sentence}. Asking again.`);
    return ok;
  } catch (error) {
    say(false, `The stop did not reach the robot's computer: cut the arm's power. Asking again. (${error.message})`);
    return false;
  }
}

// Asks until the driver confirms the stop or the page is closed.
async function askToStop() {
  if (asking || stopButton.disabled) return;
  asking = true;
  stopButton.classList.add("asking");
  while (!await tryToStop()) await new Promise((resume) => setTimeout(resume, PAUSE_MS));
  stopButton.classList.remove("asking");
  asking = false;
}
stopButton.addEventListener("pointerdown", askToStop);
stopButton.addEventListener("click", askToStop); // by keyboard
document.addEventListener("keydown", (event) => { if (event.key === "Escape" && !event.repeat) askToStop(); });

// Each image asks for the next one when it has arrived, so a slow line gets fewer images and no queue.
window.gridsLayers = "";
function follow(image) {
  let number = 0;
  const next = () => {
    if (!image.isConnected) return;
    image.src = `/camera/${image.dataset.camera}?layers=${window.gridsLayers}&n=${number++}`;
  };
  image.onload = () => { image.classList.add("seen"); setTimeout(next, Number(image.dataset.period)); };
  image.onerror = () => { image.classList.remove("seen"); setTimeout(next, 1000); };
  next();
}

// Says so when the robot's computer does not answer: everything on the page is old then.
let missed = 0;
setInterval(async () => {
  try {
    const reply = await fetch("/alive", { signal: AbortSignal.timeout(1500) });
    if (!reply.ok) throw new Error(await reply.text());
    missed = 0;
  } catch {
    missed++;
  }
  if (lost !== missed >= 2) { lost = !lost; show(); }
}, 1000);
