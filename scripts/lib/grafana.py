"""What Grafana accepts as a dashboard, checked without a Grafana.

The shapes follow the JSON schema that Grafana publishes for its classic dashboards: which fields
there are, of which type, which must be there. A field that is not named here is refused.
"""

from __future__ import annotations

from typing import Any, Callable, Iterator

Problems = Iterator[str]
Shape = Callable[[Any, str], Problems]


def is_a(*types: type) -> Shape:
    """One of these types; a number is not a bool."""

    def check(value: Any, where: str) -> Problems:
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            yield f"{where}: {type(value).__name__} where {' or '.join(t.__name__ for t in types)} belongs"

    return check


def one_of(*values: Any) -> Shape:
    def check(value: Any, where: str) -> Problems:
        if value not in values:
            yield f"{where}: {value!r} is none of {', '.join(map(repr, values))}"

    return check


def each(shape: Shape) -> Shape:
    def check(value: Any, where: str) -> Problems:
        if not isinstance(value, list):
            yield f"{where}: a list belongs here"
            return
        for at, item in enumerate(value):
            yield from shape(item, f"{where}[{at}]")

    return check


def map_of(shape: Shape) -> Shape:
    def check(value: Any, where: str) -> Problems:
        if not isinstance(value, dict):
            yield f"{where}: an object belongs here"
            return
        for key, item in value.items():
            yield from shape(item, f"{where}.{key}")

    return check


def fields(required: dict[str, Shape], optional: dict[str, Shape] | None = None) -> Shape:
    """An object with these fields and no others."""
    known = {**required, **(optional or {})}

    def check(value: Any, where: str) -> Problems:
        if not isinstance(value, dict):
            yield f"{where}: an object belongs here"
            return
        for name in required.keys() - value.keys():
            yield f"{where}: {name} is missing"
        for name, item in value.items():
            if name not in known:
                yield f"{where}: there is no field {name}"
            else:
                yield from known[name](item, f"{where}.{name}")

    return check


TEXT, WHOLE, NUMBER, YES_NO = is_a(str), is_a(int), is_a(int, float), is_a(bool)
OBJECT = is_a(dict)
TEXTS = each(TEXT)

DATASOURCE = fields({"type": TEXT, "uid": TEXT})
GRID = fields({"h": WHOLE, "w": WHOLE, "x": WHOLE, "y": WHOLE}, {"static": YES_NO})
LINK = fields(
    {
        "title": TEXT, "type": one_of("link", "dashboards"), "icon": TEXT, "tooltip": TEXT, "tags": TEXTS,
        "asDropdown": YES_NO, "targetBlank": YES_NO, "includeVars": YES_NO, "keepTime": YES_NO,
    },
    {"url": TEXT},
)
SHOWN_AS = fields({}, {"text": TEXT, "color": TEXT, "icon": TEXT, "index": WHOLE})
MAPPING = fields({"type": one_of("value"), "options": map_of(SHOWN_AS)})
# The first step is minus infinity, which JSON can only say by null.
STEP = fields({"value": is_a(int, float, type(None)), "color": TEXT})
THRESHOLDS = fields({"mode": one_of("absolute", "percentage"), "steps": each(STEP)})
COLOR = fields(
    {"mode": one_of("thresholds", "palette-classic", "palette-classic-by-name", "fixed", "shades")},
    {"fixedColor": TEXT, "seriesBy": one_of("min", "max", "last")},
)
MATCHER = fields({"id": TEXT}, {"options": is_a(str, dict)})
OVERRIDE = fields(
    {"matcher": MATCHER, "properties": each(fields({"id": TEXT}, {"value": is_a(dict, list, str, int, float, bool)}))}
)
TRANSFORMATION = fields({"id": TEXT, "options": OBJECT}, {"disabled": YES_NO, "filter": MATCHER})
# A query of the Prometheus data source.
TARGET = fields(
    {"refId": TEXT, "expr": TEXT, "datasource": DATASOURCE},
    {
        "legendFormat": TEXT, "range": YES_NO, "instant": YES_NO, "exemplar": YES_NO, "hide": YES_NO,
        "format": one_of("time_series", "table", "heatmap"), "editorMode": one_of("code", "builder"),
        "interval": TEXT, "intervalFactor": NUMBER,
    },
)

ORIENTATION = one_of("auto", "vertical", "horizontal")
VISIBILITY = one_of("auto", "never", "always")
LEGEND = fields(
    {"displayMode": one_of("list", "table", "hidden"), "placement": one_of("bottom", "right"), "showLegend": YES_NO, "calcs": TEXTS},
    {"sortBy": TEXT, "sortDesc": YES_NO, "width": NUMBER},
)
TOOLTIP = fields({"mode": one_of("single", "multi", "none"), "sort": one_of("asc", "desc", "none")})
REDUCE = fields({"calcs": TEXTS}, {"values": YES_NO, "limit": NUMBER, "fields": TEXT})
CELL = fields(
    {"type": one_of("auto", "color-text", "color-background", "gauge", "sparkline", "json-view")},
    {"mode": one_of("basic", "gradient", "lcd"), "wrapText": YES_NO, "applyToRow": YES_NO},
)

# Panel type: (its options, what it adds to the configuration of a field).
PANELS: dict[str, tuple[Shape, Shape]] = {
    "timeseries": (
        fields({"legend": LEGEND, "tooltip": TOOLTIP}),
        fields(
            {},
            {
                "drawStyle": one_of("line", "bars", "points"), "lineWidth": NUMBER, "fillOpacity": NUMBER,
                "lineInterpolation": one_of("linear", "smooth", "stepBefore", "stepAfter"),
                "showPoints": VISIBILITY, "spanNulls": is_a(bool, int), "axisLabel": TEXT,
                "axisPlacement": one_of("auto", "top", "right", "bottom", "left", "hidden"),
                "stacking": fields({}, {"mode": one_of("none", "normal", "percent"), "group": TEXT}),
                "thresholdsStyle": fields({"mode": one_of("off", "line", "dashed", "area", "line+area", "dashed+area", "series")}),
            },
        ),
    ),
    "state-timeline": (
        fields(
            {"showValue": VISIBILITY, "rowHeight": NUMBER, "legend": LEGEND, "tooltip": TOOLTIP},
            {"mergeValues": YES_NO, "alignValue": one_of("center", "left", "right"), "perPage": NUMBER},
        ),
        fields({}, {"lineWidth": WHOLE, "fillOpacity": WHOLE}),
    ),
    "stat": (
        fields(
            {
                "graphMode": one_of("none", "line", "area"), "colorMode": one_of("value", "background", "background_solid", "none"),
                "justifyMode": one_of("auto", "center"), "textMode": one_of("auto", "value", "value_and_name", "name", "none"),
                "wideLayout": YES_NO, "showPercentChange": YES_NO, "reduceOptions": REDUCE, "orientation": ORIENTATION,
                "percentChangeColorMode": one_of("standard", "inverted", "same_as_value"),
            }
        ),
        fields({}),
    ),
    "bargauge": (
        fields(
            {
                "displayMode": one_of("basic", "lcd", "gradient"), "valueMode": one_of("color", "text", "hidden"),
                "namePlacement": one_of("auto", "top", "left"), "showUnfilled": YES_NO, "sizing": one_of("auto", "manual"),
                "minVizWidth": WHOLE, "minVizHeight": WHOLE, "maxVizHeight": WHOLE, "reduceOptions": REDUCE, "orientation": ORIENTATION,
            }
        ),
        fields({}),
    ),
    "table": (
        fields(
            {"frameIndex": NUMBER, "showHeader": YES_NO},
            {"cellHeight": one_of("sm", "md", "lg", "auto"), "sortBy": each(fields({"displayName": TEXT}, {"desc": YES_NO}))},
        ),
        fields({"align": one_of("auto", "left", "right", "center"), "inspect": YES_NO}, {"cellOptions": CELL, "width": NUMBER, "filterable": YES_NO}),
    ),
}


def field_config(custom: Shape) -> Shape:
    defaults = {
        "unit": TEXT, "decimals": NUMBER, "min": NUMBER, "max": NUMBER, "mappings": each(MAPPING), "thresholds": THRESHOLDS,
        "color": COLOR, "noValue": TEXT, "displayName": TEXT, "description": TEXT, "custom": custom,
    }
    return fields({"defaults": fields({}, defaults), "overrides": each(OVERRIDE)})


ROW = fields(
    {"type": one_of("row"), "id": WHOLE, "collapsed": YES_NO, "gridPos": GRID, "panels": each(OBJECT)}, {"title": TEXT, "repeat": TEXT}
)


def panel(value: Any, where: str) -> Problems:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "row":
        yield from ROW(value, where)
        return
    if kind not in PANELS:
        yield f"{where}: {kind!r} is none of the kinds of panel {', '.join(PANELS)}"
        return
    options, custom = PANELS[kind]
    shape = fields(
        {
            "type": TEXT, "id": WHOLE, "title": TEXT, "datasource": DATASOURCE, "gridPos": GRID, "options": options,
            "fieldConfig": field_config(custom), "targets": each(TARGET),
        },
        {"description": TEXT, "transformations": each(TRANSFORMATION), "interval": TEXT, "maxDataPoints": NUMBER, "transparent": YES_NO},
    )
    yield from shape(value, where)


OPTION = fields({"text": TEXT, "value": TEXT}, {"selected": YES_NO})
VARIABLE = fields(
    {"type": one_of("query"), "name": TEXT, "query": TEXT, "datasource": DATASOURCE},
    {
        "label": TEXT, "description": TEXT, "hide": one_of(0, 1, 2), "skipUrlSync": YES_NO, "current": OPTION, "options": each(OPTION),
        "multi": YES_NO, "includeAll": YES_NO, "regex": TEXT, "refresh": one_of(0, 1, 2), "sort": one_of(*range(9)),
    },
)
ANNOTATION = fields(
    {"name": TEXT, "datasource": DATASOURCE, "enable": YES_NO, "iconColor": TEXT}, {"hide": YES_NO, "type": TEXT, "builtIn": NUMBER}
)
DASHBOARD = fields(
    {
        "uid": TEXT, "title": TEXT, "schemaVersion": WHOLE, "panels": each(panel),
        "templating": fields({"list": each(VARIABLE)}), "annotations": fields({"list": each(ANNOTATION)}),
    },
    {
        "description": TEXT, "tags": TEXTS, "timezone": TEXT, "editable": YES_NO, "graphTooltip": one_of(0, 1, 2),
        "time": fields({"from": TEXT, "to": TEXT}), "refresh": is_a(str, bool), "version": WHOLE, "links": each(LINK),
    },
)


def panels_of(board: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All panels, those in collapsed rows too; rows themselves are none."""
    for item in board.get("panels", []):
        if item.get("type") == "row":
            yield from item.get("panels", [])
        else:
            yield item


def problems(board: Any, datasources: set[str]) -> Problems:
    """What is wrong with a dashboard: its shape, and what only whole dashboards can get wrong."""
    shape = list(DASHBOARD(board, "dashboard"))
    yield from shape
    if shape:
        return
    ids, taken = set(), {}
    for item in board["panels"]:
        if item["id"] in ids:
            yield f"panel id {item['id']} is there twice"
        ids.add(item["id"])
        grid = item["gridPos"]
        if not (0 < grid["w"] <= 24 and 0 <= grid["x"] <= 24 - grid["w"] and grid["h"] > 0 and grid["y"] >= 0):
            yield f"panel {item['title']}: outside of the grid of 24 columns"
        for cell in ((x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])):
            if cell in taken:
                yield f"panel {item['title']}: lies over {taken[cell]}"
                break
            taken[cell] = item["title"]
    for item in panels_of(board):
        refs = [target["refId"] for target in item["targets"]]
        if not refs or len(set(refs)) != len(refs):
            yield f"panel {item['title']}: its queries need names of their own"
        for ref in [item["datasource"], *(target["datasource"] for target in item["targets"])]:
            if ref["uid"] not in datasources:
                yield f"panel {item['title']}: no data source {ref['uid']} is provisioned"
        values = [step["value"] for step in item["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])]
        if values and (values[0] is not None or any(v is None for v in values[1:]) or values[1:] != sorted(values[1:])):
            yield f"panel {item['title']}: its thresholds are not in order from null on"
