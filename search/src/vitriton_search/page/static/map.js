// The map: up to 100,000 points on a canvas, each frame written as pixels, and pictures in their place where few are
// in view.

const STEPS = 65535; // places are whole numbers from 0 to this
const MOST = 400; // the largest zoom
const PICTURES = 60; // in view at most, to be shown as pictures
const PICTURE = 56; // CSS pixels of a side
const REACH = 24; // CSS pixels from the pointer to a point
const MARGIN = 0.94; // of the canvas, that the whole map fills
const KEPT = 400; // pictures in memory
const FIRST = 150; // the opacity of a point, of 255
const FAINT = 50; // that of points behind those of a chosen group

/** A color as the canvas holds it, without the opacity. */
function asWord(color) {
  const [red, green, blue] = color.match(/[\da-f]{2}/gi);
  return parseInt(blue + green + red, 16);
}

export class MapView {
  constructor(canvas, found, { thumbnailOf, onLook, onOpen, onMove }) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.thumbnailOf = thumbnailOf;
    this.onLook = onLook;
    this.onOpen = onOpen;
    this.onMove = onMove;
    this.pictures = new Map();
    this.pointers = new Map();
    this.show(found);
    this.moveTo();
    new ResizeObserver(() => this.draw()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    this.listen();
  }

  /** Shows other points, or others of their groups. */
  show(found) {
    this.found = found;
    this.points = Float32Array.from(found.points, (each) => each / STEPS - 0.5);
    // The number of each point's color; 0 is that of points in no group, or in one of the small ones
    const count = found.groups?.names.length ?? 0;
    this.colors = Uint8Array.from(found.ids, (_, number) => (found.groups?.of[number] < count ? found.groups.of[number] + 1 : 0));
    this.looked = -1;
    this.choose(-1);
  }

  /** Shows the points of one group in front of all others; -1: all alike. */
  choose(group) {
    this.chosen = group;
    const numbers = [...this.found.ids.keys()];
    this.order = [...numbers.filter((number) => this.isFaint(number)), ...numbers.filter((number) => !this.isFaint(number))];
    this.draw();
  }

  isFaint(number) {
    return this.chosen >= 0 && this.colors[number] !== this.chosen + 1;
  }

  /** Shows a place, "x,y,zoom"; without one, all. */
  moveTo(place) {
    const [x, y, zoom] = (place ?? "0,0,1").split(",").map(Number);
    this.x = Number.isFinite(x) ? x : 0;
    this.y = Number.isFinite(y) ? y : 0;
    this.scale = zoom >= 1 ? zoom : 1;
    this.moved(0, 0);
  }

  get place() {
    return [this.x, this.y, this.scale].map((each) => Number(each.toFixed(4))).join(",");
  }

  /** CSS pixels for the whole width of the map. */
  get side() {
    return Math.min(this.canvas.clientWidth, this.canvas.clientHeight) * MARGIN * this.scale;
  }

  moved(right, down) {
    const side = this.side || 1;
    const within = (value) => Math.min(0.55, Math.max(-0.55, value));
    this.x = within(this.x + right / side);
    this.y = within(this.y + down / side);
    this.draw();
    clearTimeout(this.settling);
    this.settling = setTimeout(() => this.settled(), 250);
  }

  settled() {
    this.onMove(this.place);
    if (document.activeElement === this.canvas && this.byKeyboard) this.look(this.nearest(), true);
  }

  /** Zooms, so that the point under a place in CSS pixels stays there. */
  zoom(factor, left = this.canvas.clientWidth / 2, top = this.canvas.clientHeight / 2) {
    const before = this.side;
    this.scale = Math.min(MOST, Math.max(1, this.scale * factor));
    const grown = 1 / before - 1 / this.side;
    this.x += (left - this.canvas.clientWidth / 2) * grown;
    this.y += (top - this.canvas.clientHeight / 2) * grown;
    this.moved(0, 0);
  }

  /** The number of the point nearest to a place in CSS pixels; -1: none is within reach. */
  nearest(left, top, reach = Infinity) {
    const side = this.side;
    const x = this.x + (left === undefined ? 0 : (left - this.canvas.clientWidth / 2) / side);
    const y = this.y + (top === undefined ? 0 : (top - this.canvas.clientHeight / 2) / side);
    let best = -1;
    let least = (reach / side) ** 2;
    for (let at = 0; at < this.points.length; at += 2) {
      const distance = (this.points[at] - x) ** 2 + (this.points[at + 1] - y) ** 2;
      if (distance < least) [least, best] = [distance, at / 2];
    }
    return best;
  }

  look(number, isKeyboard = false) {
    if (number === this.looked && !isKeyboard) return;
    this.looked = number;
    this.onLook(number, isKeyboard);
    this.draw();
  }

  draw() {
    if (this.drawing) return;
    this.drawing = requestAnimationFrame(() => {
      this.drawing = null;
      this.paint();
    });
  }

  paint() {
    const { canvas, context, points } = this;
    const ratio = Math.min(devicePixelRatio || 1, 2);
    const width = Math.round(canvas.clientWidth * ratio);
    const height = Math.round(canvas.clientHeight * ratio);
    if (!width || !height) return; // the view is not shown
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
      this.image = null;
    }
    this.image ??= context.createImageData(width, height);
    const pixels = new Uint32Array(this.image.data.buffer);
    pixels.fill(0);
    const palette = this.palette();
    const words = palette.map(asWord);
    const side = this.side * ratio;
    const left = width / 2 - this.x * side;
    const top = height / 2 - this.y * side;
    const size = Math.max(2, Math.round(ratio * Math.min(7, (points.length > 40000 ? 1.5 : 3) + Math.log2(this.scale) / 2)));
    const inView = [];
    for (const number of this.order) {
      const x = Math.round(left + points[2 * number] * side - size / 2);
      const y = Math.round(top + points[2 * number + 1] * side - size / 2);
      if (x < 0 || y < 0 || x + size > width || y + size > height) continue;
      if (inView.length <= PICTURES) inView.push(number);
      const isFaint = this.isFaint(number);
      const color = words[isFaint ? 0 : this.colors[number]];
      for (let row = y * width + x, last = row + size * width; row < last; row += width)
        for (let pixel = row; pixel < row + size; pixel++) {
          // The more points, the less transparent
          const opacity = pixels[pixel] >>> 24;
          const next = isFaint ? FAINT : opacity ? Math.min(255, Math.max(opacity + 50, FIRST)) : FIRST;
          pixels[pixel] = color | (next << 24);
        }
    }
    context.putImageData(this.image, 0, 0);
    const place = (number) => [left + points[2 * number] * side, top + points[2 * number + 1] * side];
    if (inView.length <= PICTURES) for (const number of inView) this.paintPicture(number, place(number), ratio, palette);
    context.lineWidth = 2 * ratio;
    context.strokeStyle = getComputedStyle(canvas).color;
    context.beginPath();
    if (this.looked >= 0) {
      const [x, y] = place(this.looked);
      context.arc(x, y, 9 * ratio, 0, 2 * Math.PI);
    }
    if (document.activeElement === canvas && this.byKeyboard)
      for (const [across, down] of [[1, 0], [0, 1]]) {
        context.moveTo(width / 2 - 10 * ratio * across, height / 2 - 10 * ratio * down);
        context.lineTo(width / 2 + 10 * ratio * across, height / 2 + 10 * ratio * down);
      }
    context.stroke();
  }

  paintPicture(number, [x, y], ratio, palette) {
    const id = this.found.ids[number];
    let picture = this.pictures.get(id);
    if (!picture) {
      if (this.pictures.size >= KEPT) this.pictures.delete(this.pictures.keys().next().value);
      picture = new Image();
      picture.addEventListener("load", () => this.draw());
      picture.src = this.thumbnailOf(id);
      this.pictures.set(id, picture);
    }
    if (!picture.complete || !picture.naturalWidth) return; // a point until it is there, and if it cannot be shown
    const side = PICTURE * ratio;
    this.context.globalAlpha = this.isFaint(number) ? 0.3 : 1;
    this.context.drawImage(picture, x - side / 2, y - side / 2, side, side);
    if (this.found.groups) {
      this.context.lineWidth = 4 * ratio;
      this.context.strokeStyle = palette[this.colors[number]];
      this.context.strokeRect(x - side / 2, y - side / 2, side, side);
    }
    this.context.globalAlpha = 1;
  }

  /** The colors of points, as the style sheet has them: that of no group, and those of groups. */
  palette() {
    const style = getComputedStyle(this.canvas);
    const { groups } = this.found;
    const names = groups ? ["--group-0", ...groups.names.map((_, place) => `--group-${place + 1}`)] : ["--point"];
    return names.map((name) => style.getPropertyValue(name).trim());
  }

  listen() {
    const { canvas, pointers } = this;
    const spot = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
      this.zoom(Math.exp(-Math.max(-120, Math.min(120, event.deltaY * lines)) / 300), ...spot(event));
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.byKeyboard = false;
      this.travelled = pointers.size ? Infinity : 0;
      pointers.set(event.pointerId, spot(event));
    });
    canvas.addEventListener("pointermove", (event) => {
      const now = spot(event);
      const before = pointers.get(event.pointerId);
      if (!before) return this.look(this.nearest(...now, REACH));
      const others = [...pointers.entries()].filter(([id]) => id !== event.pointerId).map(([, each]) => each);
      pointers.set(event.pointerId, now);
      canvas.classList.add("dragged");
      if (others.length) {
        const [[x, y]] = others;
        const distance = ([left, top]) => Math.hypot(left - x, top - y) || 1;
        return this.zoom(distance(now) / distance(before), (x + now[0]) / 2, (y + now[1]) / 2);
      }
      this.travelled += Math.hypot(now[0] - before[0], now[1] - before[1]);
      return this.moved(before[0] - now[0], before[1] - now[1]);
    });
    const ended = (event) => {
      pointers.delete(event.pointerId);
      if (!pointers.size) canvas.classList.remove("dragged");
    };
    canvas.addEventListener("pointercancel", ended);
    canvas.addEventListener("pointerup", (event) => {
      const isOnly = pointers.size === 1;
      ended(event);
      if (!isOnly || this.travelled > 5) return;
      const number = this.nearest(...spot(event), REACH);
      // A finger looks first, as it cannot hover, and opens at the second touch
      if (number >= 0 && (event.pointerType === "mouse" || number === this.looked)) this.onOpen(this.found.ids[number]);
      else this.look(number);
    });
    canvas.addEventListener("keydown", (event) => {
      const [right, down] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
      const zoom = { "+": 1.4, "=": 1.4, "-": 1 / 1.4 }[event.key];
      if (event.ctrlKey || event.metaKey || event.altKey || !(right || down || zoom || ["0", "Enter"].includes(event.key))) return;
      event.preventDefault();
      this.byKeyboard = true;
      if (right || down) this.moved(right * canvas.clientWidth * 0.1, down * canvas.clientHeight * 0.1);
      else if (zoom) this.zoom(zoom);
      else if (event.key === "0") this.moveTo();
      else if (this.found.ids.length) this.onOpen(this.found.ids[this.nearest()]);
    });
    canvas.addEventListener("focus", () => {
      this.byKeyboard = canvas.matches(":focus-visible");
      this.draw();
      if (this.byKeyboard) this.look(this.nearest(), true);
    });
    canvas.addEventListener("blur", () => this.draw());
  }
}
