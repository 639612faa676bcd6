//! Plots as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

const SIZE: (u32, u32) = (860, 420);
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(213, 94, 0),
    RGBColor(110, 110, 110),
];

/// A name and its points.
pub type Series = (String, Vec<(f64, f64)>);

pub enum Plot {
    /// Lines over a numeric axis.
    Lines {
        file: String,
        title: String,
        x: String,
        y: String,
        series: Vec<Series>,
    },
    /// Latencies in milliseconds, both axes logarithmic: x is the quantile, as the number of nines.
    Quantiles {
        file: String,
        title: String,
        series: Vec<Series>,
    },
    /// For each group one bar for each name.
    Bars {
        file: String,
        title: String,
        y: String,
        names: Vec<String>,
        groups: Vec<(String, Vec<f64>)>,
    },
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

impl Plot {
    pub fn file(&self) -> &str {
        let (Self::Lines { file, .. } | Self::Quantiles { file, .. } | Self::Bars { file, .. }) =
            self;
        file
    }

    pub fn title(&self) -> &str {
        let (Self::Lines { title, .. } | Self::Quantiles { title, .. } | Self::Bars { title, .. }) =
            self;
        title
    }

    pub fn draw(&self, path: &Path) -> Result<()> {
        let area = SVGBackend::new(path, SIZE).into_drawing_area();
        let drawn = match self {
            Self::Lines {
                title,
                x,
                y,
                series,
                ..
            } => lines(&area, title, x, y, series),
            Self::Quantiles { title, series, .. } => quantiles(&area, title, series),
            Self::Bars {
                title,
                y,
                names,
                groups,
                ..
            } => bars(&area, title, y, names, groups),
        };
        drawn
            .and_then(|()| Ok(area.present()?))
            .map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))
    }
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

fn highest(points: impl Iterator<Item = f64>) -> f64 {
    points.fold(0.0, f64::max).max(f64::MIN_POSITIVE)
}

fn lines(area: &Area, title: &str, x: &str, y: &str, series: &[Series]) -> Drawn {
    area.fill(&WHITE)?;
    let points = || series.iter().flat_map(|(_, points)| points);
    let lowest_x = points().map(|point| point.0).fold(f64::INFINITY, f64::min);
    let (highest_x, highest_y) = (
        highest(points().map(|point| point.0)),
        highest(points().map(|point| point.1)),
    );
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(lowest_x..highest_x, 0.0..highest_y * 1.1)?;
    chart
        .configure_mesh()
        .x_desc(x)
        .y_desc(y)
        .light_line_style(WHITE)
        .draw()?;
    for (index, (name, points)) in series.iter().enumerate() {
        let drawn = chart.draw_series(LineSeries::new(
            points.iter().copied(),
            colour(index).stroke_width(2),
        ))?;
        drawn.label(name).legend(move |(x, y)| {
            Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour(index).filled())
        });
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

fn quantiles(area: &Area, title: &str, series: &[Series]) -> Drawn {
    area.fill(&WHITE)?;
    let points = || series.iter().flat_map(|(_, points)| points);
    let lowest = points().map(|point| point.1).fold(f64::INFINITY, f64::min);
    let highest_y = highest(points().map(|point| point.1));
    let highest_x = highest(points().map(|point| point.0));
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..highest_x, (lowest * 0.8..highest_y * 1.3).log_scale())?;
    let percent = |nines: &f64| {
        format!(
            "{}",
            ((1.0 - 10f64.powf(-nines)) * 100_000.0).round() / 1000.0
        )
    };
    let mesh = &mut chart.configure_mesh();
    mesh.x_desc("percentile")
        .y_desc("milliseconds")
        .x_labels(4)
        .x_label_formatter(&percent)
        .light_line_style(WHITE)
        .draw()?;
    for (index, (name, points)) in series.iter().enumerate() {
        let drawn = chart.draw_series(LineSeries::new(
            points.iter().copied(),
            colour(index).stroke_width(2),
        ))?;
        drawn.label(name).legend(move |(x, y)| {
            Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour(index).filled())
        });
    }
    let labels = &mut chart.configure_series_labels();
    labels
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}

fn bars(
    area: &Area,
    title: &str,
    y: &str,
    names: &[String],
    groups: &[(String, Vec<f64>)],
) -> Drawn {
    area.fill(&WHITE)?;
    let highest_y = highest(groups.iter().flat_map(|(_, values)| values.iter().copied()));
    let count = groups.len();
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..count as f64, 0.0..highest_y * 1.15)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .y_desc(y)
        .light_line_style(WHITE)
        .draw()?;
    let width = 0.8 / names.len() as f64;
    for (index, name) in names.iter().enumerate() {
        let rectangles = groups.iter().enumerate().map(|(group, (_, values))| {
            let left = group as f64 + 0.1 + index as f64 * width;
            Rectangle::new(
                [(left, 0.0), (left + width * 0.92, values[index])],
                colour(index).filled(),
            )
        });
        let drawn = chart.draw_series(rectangles)?;
        drawn.label(name).legend(move |(x, y)| {
            Rectangle::new([(x, y - 5), (x + 12, y + 5)], colour(index).filled())
        });
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    let font = ("sans-serif", 13).into_font().into_text_style(area);
    for (group, (name, _)) in groups.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(group as f64 + 0.1, 0.0));
        area.draw_text(name, &font, (x, y + 10))?;
    }
    Ok(())
}
