// A Plotly figure that is changed in place. Whoever builds it anew with every change pays for a new
// canvas each time, a good half second where no graphics card draws it.

const library = new URL("PLOTLY_ADDRESS", document.baseURI); // the server knows it
let loading;

/** Plotly, loaded once for all figures of the page. */
function load() {
  loading ??= new Promise((done, fail) => {
    // by a script's address alone does the browser keep what it has compiled
    const script = document.createElement("script");
    script.src = library;
    script.onload = () => done(window.Plotly);
    script.onerror = () => {
      loading = undefined; // the next figure tries again
      fail(new Error(`${library} cannot be loaded: is the app still running?`));
    };
    document.head.append(script);
  });
  return loading;
}

/** Ground, text and lines of the theme that the page has now. */
function readTheme(element) {
  const style = getComputedStyle(element);
  const read = (name) => style.getPropertyValue(`--st-${name}`).trim();
  const [text, pale, lines] = ["text-color", "gray-text-color", "border-color-light"].map(read);
  const font = { color: text, family: read("font"), size: 13 };
  const axis = { gridcolor: lines, linecolor: lines, zerolinecolor: lines };
  const glass = "rgba(0,0,0,0)";
  return {
    layout: {
      paper_bgcolor: glass,
      plot_bgcolor: glass,
      font,
      hoverlabel: { bgcolor: read("background-color"), bordercolor: pale, font },
      modebar: { bgcolor: glass, color: pale, activecolor: text },
      xaxis: axis,
      yaxis: axis,
    },
  };
}

/** The element that holds the figure, made when there is none. */
function findPlace(parent, height) {
  let place = parent.querySelector(".aq-plot");
  if (!place) {
    place = document.createElement("div");
    place.className = "aq-plot";
    parent.append(place);
  }
  place.style.height = `${height ?? 450}px`;
  return place;
}

function listen(Plotly, place) {
  const tell = (points) => {
    if (!place.aqDrawing) place.aqTell(points.map((point) => point.customdata));
  };
  place.on("plotly_selected", (event) => event && tell(event.points));
  place.on("plotly_deselect", () => tell([]));
  place.aqWatch = new ResizeObserver(() => place.offsetWidth && Plotly.Plots.resize(place));
  place.aqWatch.observe(place);
}

async function draw(Plotly, place, turn, { traces, layout, config }) {
  if (place.aqTurn !== turn) return; // a newer one is there
  if (!place.aqWatch) place.replaceChildren(); // why there was none before
  place.aqDrawing = true; // while Plotly says of its own accord that nothing is selected
  try {
    await Plotly.react(place, traces, layout, config);
  } finally {
    if (place.aqTurn === turn) place.aqDrawing = false;
  }
  if (!place.aqWatch) listen(Plotly, place);
}

/** Leave nothing of a figure: no canvas, no listener. */
function clear(place) {
  place.aqWatch?.disconnect();
  delete place.aqWatch;
  window.Plotly?.purge(place);
}

export default function ({ data, parentElement, setTriggerValue }) {
  const ready = load();
  if (!data) {
    ready.catch(() => {}); // a figure will say why
    return undefined;
  }
  const { data: traces, layout: asked } = JSON.parse(data.figure);
  const place = findPlace(parentElement, asked.height);
  place.aqTell = (points) => setTriggerValue("selected", points);
  const turn = (place.aqTurn ?? 0) + 1;
  place.aqTurn = turn;
  // What is selected is the server's to say, anew each time: points are counted, and a filter that
  // moves changes who is the seventh.
  const manners = data.selects
    ? { dragmode: "pan", clickmode: "event+select", selectionrevision: turn }
    : { dragmode: "zoom" };
  const layout = { ...asked, ...manners, template: readTheme(place) };
  const useless = data.selects ? [] : ["select2d", "lasso2d"];
  const config = { ...data.config, modeBarButtonsToRemove: ["sendChartToCloud", ...useless] };
  ready
    .then((Plotly) => draw(Plotly, place, turn, { traces, layout, config }))
    .catch((error) => {
      if (place.aqTurn !== turn) return;
      clear(place);
      place.textContent = `The plot cannot be drawn: ${error.message}`;
    });
  // Streamlit ends a call that a later one has overtaken as well, whose place lives on.
  return () => place.isConnected || clear(place);
}
