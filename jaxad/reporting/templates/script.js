"use strict";
document.documentElement.classList.add("js");

const NAMES = {{ macros.outcomes|tojson }};
const share = (count, of) => of ? `${count} of ${of} (${(100 * count / of).toFixed(1)} %)` : "none";
const digits = (value) => Number(value.toPrecision(5)).toString();

/* How far a slider is from image (0) to map (1) to mask (2). */
function layer(slider, box) {
  const set = () => {
    const at = Number(slider.value);
    box.style.setProperty("--map", String(at <= 1 ? at : 2 - at));
    box.style.setProperty("--mask", String(Math.max(0, at - 1)));
  };
  slider.addEventListener("input", set);
  set();
}

class Category {
  constructor(section) {
    this.section = section;
    this.data = JSON.parse(section.querySelector(".data").textContent);
    this.threshold = this.data.threshold;
    this.cards = [...section.querySelectorAll(".card")];
    this.gallery = section.querySelector(".gallery");
    this.find = (selector) => section.querySelector(selector);
    this.scores();
    this.images();
    if (this.gallery) this.judge();
  }

  /* The histogram, whose threshold is dragged or moved by keys. */
  scores() {
    const svg = this.find(".histogram"), pull = this.find(".pull");
    if (!pull) return;
    const { low, high } = this.data;
    pull.addEventListener("input", () => this.move(Number(pull.value)));
    this.find(".back").addEventListener("click", () => {
      pull.value = this.data.threshold;
      this.move(this.data.threshold);
    });
    const drag = (event) => {
      const box = svg.getBoundingClientRect(), scale = svg.dataset.width / box.width;
      const left = Number(svg.dataset.left), right = Number(svg.dataset.right);
      const at = ((event.clientX - box.left) * scale - left) / (right - left);
      pull.value = low + Math.min(1, Math.max(0, at)) * (high - low);
      this.move(Number(pull.value));
    };
    svg.addEventListener("pointerdown", (event) => {
      svg.setPointerCapture(event.pointerId);
      drag(event);
    });
    svg.addEventListener("pointermove", (event) => {
      if (svg.hasPointerCapture(event.pointerId)) drag(event);
    });
  }

  move(threshold) {
    this.threshold = threshold;
    const { scores, labels, kinds, calibration, low, high } = this.data;
    const svg = this.find(".histogram");
    const left = Number(svg.dataset.left), right = Number(svg.dataset.right);
    const x = left + (right - left) * (threshold - low) / (high - low);
    this.find(".threshold").setAttribute("transform", `translate(${x} 0)`);
    let normal = 0, alarms = 0, misses = 0;
    scores.forEach((score, i) => {
      normal += !labels[i];
      if (labels[i] ? score <= threshold : score > threshold) labels[i] ? misses++ : alarms++;
    });
    this.find(".value").textContent = digits(threshold);
    this.find(".false-alarms").textContent = share(alarms, normal);
    this.find(".misses").textContent = share(misses, scores.length - normal);
    const promised = this.find(".promised");
    if (promised) {
      const above = calibration.filter((score) => score > threshold).length;
      promised.textContent = (100 * (above + 1) / (calibration.length + 1)).toFixed(2);
    }
    for (const cell of this.section.querySelectorAll("td.above")) {
      const of = scores.filter((_, i) => kinds[i] === Number(cell.dataset.kind));
      cell.textContent = share(of.filter((score) => score > threshold).length, of.length);
    }
    this.judge();
  }

  /* Filters, order, layers and zoom of the gallery. */
  images() {
    if (!this.gallery) return;
    this.shows = [...this.section.querySelectorAll(".controls input[type=radio]")];
    this.kind = this.find(".kind");
    for (const control of [...this.shows, this.kind])
      if (control) control.addEventListener("change", () => this.filter());
    this.find(".order").addEventListener("change", (event) => this.sort(event.target.value));
    layer(this.find(".controls .layers input"), this.gallery);
    this.gallery.addEventListener("click", (event) => {
      const card = event.target.closest(".card");
      if (card) zoom.open(card, this);
    });
  }

  judge() {
    for (const card of this.cards) {
      if (card.dataset.outcome !== "suspect" && this.threshold !== null) {
        const above = this.data.scores[card.dataset.i] > this.threshold;
        const anomalous = card.dataset.label === "1";
        card.dataset.outcome = anomalous ? (above ? "hit" : "miss") : above ? "false_alarm" : "pass";
      }
      card.querySelector(".outcome").textContent = NAMES[card.dataset.outcome] || "";
    }
    this.filter();
  }

  filter() {
    const show = this.shows.find((radio) => radio.checked).value;
    const kind = this.kind ? this.kind.value : "";
    const count = {};
    for (const card of this.cards) {
      const { outcome } = card.dataset;
      const fits = !kind || card.dataset.kind === kind;
      card.hidden = !fits || (show === "all" ? outcome === "suspect" : outcome !== show);
      if (fits) count[outcome] = (count[outcome] || 0) + 1;
    }
    const all = Object.values(count).reduce((a, b) => a + b, 0) - (count.suspect || 0);
    for (const radio of this.shows) {
      const number = radio.value === "all" ? all : count[radio.value] || 0;
      radio.parentElement.querySelector(".count").textContent = number;
    }
  }

  sort(order) {
    const score = (card) => Number(card.dataset.score);
    const file = (card) => card.querySelector(".file").textContent;
    const by = {
      falling: (a, b) => score(b) - score(a),
      rising: (a, b) => score(a) - score(b),
      file: (a, b) => file(a).localeCompare(file(b)),
    }[order];
    this.cards.sort(by);
    this.gallery.append(...this.cards);
  }

  visible() {
    return this.cards.filter((card) => !card.hidden);
  }
}

/* The dialog with one image; arrow keys go on to the next. */
const zoom = {
  dialog: document.getElementById("zoom"),

  open(card, category) {
    this.category = category;
    this.show(card);
    this.dialog.showModal();
  },

  show(card) {
    this.card = card;
    const part = (id) => document.getElementById(`zoom-${id}`);
    part("title").textContent = card.querySelector(".file").textContent;
    part("text").textContent = card.querySelector(".facts").textContent.replace(/^(\D+?)(?=[\d-])/, "$1 ");
    const stack = card.querySelector(".stack").cloneNode(true);
    part("view").replaceChildren(stack);
    part("layer").max = stack.querySelector(".mask") ? 2 : 1;
    part("layer").dispatchEvent(new Event("input"));
    const full = part("full");
    full.hidden = !card.dataset.full;
    if (card.dataset.full) full.href = card.dataset.full;
  },

  step(by) {
    const cards = this.category.visible();
    const next = cards[cards.indexOf(this.card) + by];
    if (next) this.show(next);
  },
};
document.getElementById("zoom-back").addEventListener("click", () => zoom.step(-1));
document.getElementById("zoom-on").addEventListener("click", () => zoom.step(1));
zoom.dialog.addEventListener("keydown", (event) => {
  if (event.target.type === "range") return;
  if (event.key === "ArrowLeft") zoom.step(-1);
  if (event.key === "ArrowRight") zoom.step(1);
});
zoom.dialog.addEventListener("close", () => zoom.card.focus());
layer(document.getElementById("zoom-layer"), document.getElementById("zoom-view"));

for (const section of document.querySelectorAll(".category")) new Category(section);
