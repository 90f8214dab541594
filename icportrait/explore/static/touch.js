// An image that can be clicked and dragged on: the first half paints the image and its marks, the second listens.
const SVG = "http://www.w3.org/2000/svg";

function markPath(mark) {
  const x = (mark.x + 1) * 50;
  const y = (mark.y + 1) * 50;
  const r = 3;
  const cross = `M${x - r} ${y}h${2 * r}M${x} ${y - r}v${2 * r}`;
  const ring = `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`;
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", mark.kind === "cross" ? cross : ring);
  path.setAttribute("stroke", mark.colour);
  return path;
}

function paint(model, img, svg) {
  let url = null;
  const showImage = () => {
    const old = url;
    url = URL.createObjectURL(new Blob([model.get("image")], { type: "image/png" }));
    img.src = url;
    // the old image is let go when the new one is there
    if (old) img.decode().catch(() => {}).finally(() => URL.revokeObjectURL(old));
  };
  const showMarks = () => svg.replaceChildren(...model.get("marks").map(markPath));
  showImage();
  showMarks();
  model.on("change:image", showImage);
  model.on("change:marks", showMarks);
  return () => {
    model.off("change:image", showImage);
    model.off("change:marks", showMarks);
    URL.revokeObjectURL(url);
  };
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function listen(model, box) {
  const clip = (v) => Math.min(1, Math.max(-1, v));
  const send = (x, y) => {
    const radius = Math.hypot(x, y);
    const scale = model.get("disc") && radius > 0.999 ? 0.999 / radius : 1;
    model.set("position", [clip(x * scale), clip(y * scale)]);
    model.save_changes();
  };
  const follow = (event) => {
    const frame = box.getBoundingClientRect();
    send(((event.clientX - frame.left) / frame.width) * 2 - 1, ((event.clientY - frame.top) / frame.height) * 2 - 1);
  };
  box.addEventListener("pointerdown", (event) => {
    box.setPointerCapture(event.pointerId);
    box.focus();
    follow(event);
    event.preventDefault();
  });
  box.addEventListener("pointermove", (event) => {
    if (event.buttons & 1) follow(event);
  });
  box.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key];
    if (!arrow) return;
    const [x, y] = model.get("position");
    const step = model.get("step");
    send(x + step * arrow[0], y + step * arrow[1]);
    event.preventDefault();
    event.stopPropagation();
  });
}

function render({ model, el }) {
  const box = document.createElement("div");
  const img = document.createElement("img");
  const svg = document.createElementNS(SVG, "svg");
  const label = model.get("label");
  box.className = "icp-touch";
  box.classList.toggle("icp-disc", model.get("disc"));
  box.classList.toggle("icp-active", model.get("active"));
  box.style.width = model.get("side") + "px";
  box.setAttribute("aria-label", label);
  box.title = label;
  img.alt = label;
  img.draggable = false;
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  box.append(img, svg);
  el.append(box);
  if (model.get("active")) {
    box.tabIndex = 0;
    listen(model, box);
  }
  return paint(model, img, svg);
}

export default { render };
