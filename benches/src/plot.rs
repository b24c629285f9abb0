//! Drawings: lines over a few places, the values on a logarithmic scale.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::table::number;

/// One drawing of a file; they stand side by side.
#[derive(Clone, Debug)]
pub(crate) struct Panel {
    pub(crate) title: String,
    /// What is written below the places, and at each of them.
    pub(crate) x: &'static str,
    pub(crate) places: Vec<String>,
    pub(crate) y: &'static str,
    pub(crate) lines: Vec<Line>,
}

/// A value for each place, in their order.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) values: Vec<f64>,
}

impl Panel {
    /// Where lines that rise, or fall, have not come to yet.
    fn free_corner(&self) -> SeriesLabelPosition {
        let most = |value: fn(&Line) -> Option<&f64>| self.lines.iter().filter_map(value).copied().fold(0.0, f64::max);
        match most(|line| line.values.first()) < most(|line| line.values.last()) {
            true => SeriesLabelPosition::UpperLeft,
            false => SeriesLabelPosition::LowerLeft,
        }
    }
}

pub(crate) fn draw(path: &Path, panels: &[Panel]) -> Result<()> {
    try_draw(path, panels).map_err(|error| anyhow!("drawing {}: {error}", path.display()))
}

fn try_draw(path: &Path, panels: &[Panel]) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(path, (560 * panels.len() as u32, 400)).into_drawing_area();
    root.fill(&WHITE)?;
    for (panel, area) in panels.iter().zip(root.split_evenly((1, panels.len()))) {
        let values = || panel.lines.iter().flat_map(|line| &line.values).copied().filter(|value| *value > 0.0);
        let (least, most) = (values().fold(f64::MAX, f64::min) / 1.5, values().fold(1e-3, f64::max) * 2.0);
        let last = panel.places.len().saturating_sub(1) as f64;
        let mut chart = ChartBuilder::on(&area)
            .caption(&panel.title, ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(-0.25..last + 0.25, (least.min(most / 10.0)..most).log_scale())?;
        let place = |x: &f64| match panel.places.get(x.round().max(0.0) as usize) {
            Some(name) if (x - x.round()).abs() < 0.01 => name.clone(),
            _ => String::new(),
        };
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE)
            .x_labels(panel.places.len() * 2)
            .x_desc(panel.x)
            .x_label_formatter(&place)
            .y_desc(panel.y)
            .y_labels(6)
            .y_label_formatter(&|value| number(*value))
            .draw()?;
        for (at, line) in panel.lines.iter().enumerate() {
            let color = Palette99::pick(at).to_rgba();
            let points = || line.values.iter().enumerate().map(|(place, value)| (place as f64, *value));
            chart
                .draw_series(LineSeries::new(points(), color.stroke_width(2)))?
                .label(&line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
            chart.draw_series(points().map(|point| Circle::new(point, 3, color.filled())))?;
        }
        chart
            .configure_series_labels()
            .position(panel.free_corner())
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.3))
            .draw()?;
    }
    root.present()?;
    Ok(())
}
