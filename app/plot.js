// A Plotly figure that is changed in place. Whoever builds it anew with every change pays for a new
// canvas each time, a good half second where no graphics card draws it.

const library = new URL("component/plot.plotly/plotly.min.js", document.baseURI);

function load() {
  window.autoquantPlotly ??= new Promise((done, fail) => {
    const script = document.createElement("script");
    script.src = library;
    script.onload = () => done(window.Plotly);
    script.onerror = () => {
      window.autoquantPlotly = undefined; // the next figure tries again
      fail(new Error(`the plot needs ${library}, which cannot be loaded: is the app still running?`));
    };
    document.head.append(script);
  });
  return window.autoquantPlotly;
}

/** Ground, text and lines of the theme that the page has now. */
function template(element) {
  const style = getComputedStyle(element);
  const read = (name) => style.getPropertyValue(`--st-${name}`).trim();
  const [text, pale, lines] = ["text-color", "gray-text-color", "border-color-light"].map(read);
  const axis = { gridcolor: lines, linecolor: lines, zerolinecolor: lines };
  return {
    layout: {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: text, family: read("font"), size: 13 },
      hoverlabel: {
        bgcolor: read("background-color"), bordercolor: pale,
        font: { color: text, family: read("font"), size: 13 },
      },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: pale, activecolor: text },
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

export default function ({ data, parentElement, setTriggerValue }) {
  const loading = load(); // also where there is no figure yet: the server reads meanwhile
  if (!data) return undefined;
  const { data: traces, layout } = JSON.parse(data.figure);
  const place = findPlace(parentElement, layout.height);
  place.aqTell = (points) => setTriggerValue("selected", points);
  // what is selected is the server's to say: points are counted anew whenever a filter moves
  const selectionrevision = (place.aqTurn ?? 0) + 1;
  place.aqTurn = selectionrevision;
  const manners = data.selects
    ? { dragmode: "pan", clickmode: "event+select", selectionrevision }
    : { dragmode: "zoom" };
  const whole = { ...layout, ...manners, template: template(place) };
  const buttons = data.selects ? [] : ["select2d", "lasso2d"];
  const config = { ...data.config, modeBarButtonsToRemove: ["sendChartToCloud", ...buttons] };
  loading
    .then((Plotly) => {
      if (place.aqTurn !== selectionrevision) return undefined; // a newer one is there
      place.aqDrawing = true; // which Plotly tells of as of a selection of nothing
      return Plotly.react(place, traces, whole, config).then(() => {
        place.aqDrawing = false;
        if (!place.aqWatch) listen(Plotly, place);
      });
    })
    .catch((error) => {
      place.textContent = error.message;
    });
  return () => {
    place.aqWatch?.disconnect();
    window.Plotly?.purge(place);
  };
}
