// The stop and the images do not pass through the page's own connection: they work while it is busy or being restored.
const stopButton = document.getElementById("stop");
const stopSaid = document.getElementById("stop-said");
let asking = false;

function say(ok, sentence) {
  stopSaid.textContent = sentence;
  stopSaid.className = ok ? "good" : "bad";
  if (ok) setTimeout(() => { if (stopSaid.textContent === sentence) stopSaid.textContent = ""; }, 5000);
}

async function askToStop() {
  if (asking || stopButton.disabled) return;
  asking = true;
  stopButton.classList.add("asking");
  for (let attempt = 0; attempt < 5; attempt++) {
    try {
      const answer = await fetch("/estop", { method: "POST", signal: AbortSignal.timeout(2500) });
      if (!answer.ok) throw new Error(await answer.text());
      const { ok, sentence } = await answer.json();
      say(ok, sentence);
      if (ok) break;
    } catch (error) {
      say(false, `The stop did not reach the robot's computer: cut the arm's power. (${error.message})`);
    }
  }
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
    await fetch("/alive", { signal: AbortSignal.timeout(1500) });
    if (missed >= 2) { stopSaid.textContent = ""; }
    missed = 0;
  } catch {
    if (++missed >= 2) say(false, "No connection to the robot's computer: what you see is old, and the stop here does not work.");
  }
}, 1000);
