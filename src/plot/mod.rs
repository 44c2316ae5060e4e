//! Charts, as SVG for pages and as PNG for everything else.

use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use plotters::coord::Shift;
use plotters::data::float::FloatPrettyPrinter;
use plotters::prelude::*;
use plotters::style::register_font;
use thiserror::Error;

use crate::files::write_atomically;

/// The font of all text, under the DejaVu licence beside it.
const FONT: &[u8] = include_bytes!("DejaVuSans.ttf");
/// Width and height in pixels.
const SIZE: (u32, u32) = (960, 600);
/// Share of the chart's height that an entry of the legend takes.
const LEGEND_SHARE: f64 = 0.05;
/// Colours that differ for colour-blind readers too (Okabe and Ito).
const COLOURS: [RGBColor; 5] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167), RGBColor(86, 86, 86)];

/// A chart over two linear axes.
#[derive(Debug, Clone, PartialEq)]
pub struct Chart {
    /// Above the chart.
    pub title: String,
    /// Name and unit of the horizontal axis.
    pub x: String,
    /// Name and unit of the vertical axis.
    pub y: String,
    /// What is drawn, the last on top.
    pub series: Vec<Series>,
}

/// Points of one colour, with one entry in the legend.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// How they are drawn.
    pub mark: Mark,
    /// The points; what is not finite is left out.
    pub points: Vec<(f64, f64)>,
}

/// How points are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// A small dot each.
    Dots,
    /// A large dot each.
    Markers,
    /// Dots, joined by a line in their order.
    Line,
}

/// A chart that could not be drawn or written.
#[derive(Debug, Error)]
pub enum PlotError {
    /// There is nothing to draw.
    #[error("chart {0:?} has no points")]
    Empty(String),
    /// The drawing library failed.
    #[error("chart {title:?} cannot be drawn: {problem}")]
    Draw {
        /// The chart.
        title: String,
        /// What it said.
        problem: String,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

impl Chart {
    /// Writes `NAME.svg` and `NAME.png` into `directory`, which is made where it is missing.
    ///
    /// # Errors
    /// [`PlotError`].
    pub fn write(&self, directory: &Path, name: &str) -> Result<(), PlotError> {
        std::fs::create_dir_all(directory).map_err(|source| PlotError::Io { path: directory.to_owned(), source })?;
        for (ending, bytes) in [("svg", self.to_svg()?.into_bytes()), ("png", self.to_png()?)] {
            let path = directory.join(format!("{name}.{ending}"));
            write_atomically(&path, &bytes).map_err(|source| PlotError::Io { path, source })?;
        }
        Ok(())
    }

    /// The chart as SVG.
    ///
    /// # Errors
    /// [`PlotError::Empty`] or [`PlotError::Draw`].
    pub fn to_svg(&self) -> Result<String, PlotError> {
        let mut text = String::new();
        self.draw(&SVGBackend::with_string(&mut text, SIZE).into_drawing_area())?;
        Ok(text)
    }

    /// The chart as PNG.
    ///
    /// # Errors
    /// [`PlotError::Empty`] or [`PlotError::Draw`].
    pub fn to_png(&self) -> Result<Vec<u8>, PlotError> {
        let (width, height) = SIZE;
        let mut pixels = vec![255; (width * height * 3) as usize];
        self.draw(&BitMapBackend::with_buffer(&mut pixels, SIZE).into_drawing_area())?;
        let mut png = Cursor::new(Vec::new());
        image::write_buffer_with_format(&mut png, &pixels, width, height, image::ExtendedColorType::Rgb8, image::ImageFormat::Png)
            .map_err(|error| self.failed(error))?;
        Ok(png.into_inner())
    }

    fn draw<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Result<(), PlotError>
    where
        B::ErrorType: 'static,
    {
        static REGISTERED: OnceLock<bool> = OnceLock::new();
        if !*REGISTERED.get_or_init(|| register_font("sans-serif", FontStyle::Normal, FONT).is_ok()) {
            return Err(self.failed("its font is damaged"));
        }
        let (x, y) = self.ranges().ok_or_else(|| PlotError::Empty(self.title.clone()))?;
        self.draw_within(area, x, y).map_err(|error| self.failed(error))
    }

    fn draw_within<B: DrawingBackend>(
        &self,
        area: &DrawingArea<B, Shift>,
        x: std::ops::Range<f64>,
        y: std::ops::Range<f64>,
    ) -> Result<(), DrawingAreaErrorKind<B::ErrorType>>
    where
        B::ErrorType: 'static,
    {
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(area)
            .caption(&self.title, ("sans-serif", 22))
            .margin(16)
            .x_label_area_size(48)
            .y_label_area_size(64)
            .build_cartesian_2d(x, y)?;
        let mesh = &mut chart.configure_mesh();
        // Steps are whole numbers, and read as such: plotters' own ticks have a decimal at least.
        let ticks = FloatPrettyPrinter { allow_scientific: false, min_decimal: 0, max_decimal: 5 };
        let tick = |value: &f64| ticks.print(*value);
        mesh.light_line_style(TRANSPARENT).x_label_formatter(&tick).y_label_formatter(&tick);
        mesh.x_desc(&self.x).y_desc(&self.y).label_style(("sans-serif", 15)).draw()?;
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let points = || series.points.iter().copied().filter(|(x, y)| x.is_finite() && y.is_finite());
            let size = if series.mark == Mark::Markers { 6 } else { 3 };
            if series.mark == Mark::Line {
                chart.draw_series(LineSeries::new(points(), colour.stroke_width(2)))?;
            }
            let dots = chart.draw_series(points().map(|point| Circle::new(point, size, colour.filled())))?;
            let colour = *colour;
            dots.label(&series.name).legend(move |(x, y)| Circle::new((x + 8, y), size, colour.filled()));
        }
        let labels = &mut chart.configure_series_labels();
        labels.position(SeriesLabelPosition::LowerRight).background_style(WHITE.mix(0.85)).border_style(BLACK.mix(0.3));
        labels.label_font(("sans-serif", 15)).draw()?;
        area.present()
    }

    /// What both axes span: all points and a margin; nothing where there is no point.
    fn ranges(&self) -> Option<(std::ops::Range<f64>, std::ops::Range<f64>)> {
        let points: Vec<(f64, f64)> =
            self.series.iter().flat_map(|series| &series.points).copied().filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
        let span = |values: &mut dyn Iterator<Item = f64>| {
            let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)));
            // A single value has no span of its own.
            let margin = if high > low { 0.05 * (high - low) } else { 0.5 * high.abs().max(1.0) };
            low - margin..high + margin
        };
        let x = span(&mut points.iter().map(|point| point.0));
        let y = span(&mut points.iter().map(|point| point.1));
        // Room for the legend, below all points.
        let y = y.start - LEGEND_SHARE * self.series.len() as f64 * (y.end - y.start)..y.end;
        (!points.is_empty()).then_some((x, y))
    }

    fn failed(&self, problem: impl ToString) -> PlotError {
        PlotError::Draw { title: self.title.clone(), problem: problem.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(points: &[(f64, f64)]) -> Chart {
        let series = |name: &str, mark| Series { name: name.to_owned(), mark, points: points.to_vec() };
        let all = vec![series("dots", Mark::Dots), series("a line", Mark::Line), series("markers", Mark::Markers)];
        Chart { title: "Accuracy".into(), x: "MFLOPs".into(), y: "top-1, %".into(), series: all }
    }

    #[test]
    fn both_files_hold_the_chart() {
        let directory = tempfile::tempdir().unwrap();
        chart(&[(1.0, 87.5), (3.0, 90.0), (f64::NAN, 1.0), (10.0, 91.25)]).write(&directory.path().join("plots"), "front").unwrap();
        let svg = std::fs::read_to_string(directory.path().join("plots/front.svg")).unwrap();
        for text in ["Accuracy", "MFLOPs", "top-1, %", "a line", "markers"] {
            assert!(svg.contains(text), "the SVG lacks {text:?}");
        }
        let ticks = || svg.lines().map(str::trim).filter(|line| line.parse::<f64>().is_ok());
        assert!(ticks().any(|tick| tick == "5") && ticks().any(|tick| tick == "90"), "{:?}", ticks().collect::<Vec<_>>());
        assert_eq!(svg.matches("<circle").count(), 3 * 3 + 3, "a circle a finite point, and one a series in the legend");
        let png = image::open(directory.path().join("plots/front.png")).unwrap().to_rgb8();
        assert_eq!(png.dimensions(), SIZE);
        for colour in &COLOURS[..3] {
            let drawn = png.pixels().filter(|pixel| pixel.0 == [colour.0, colour.1, colour.2]).count();
            assert!(drawn > 20, "{drawn} pixels of {colour:?}");
        }
    }

    #[test]
    fn one_point_is_enough_and_none_is_an_error() {
        assert!(chart(&[(2.0, 0.0)]).to_svg().is_ok());
        assert!(matches!(chart(&[(f64::INFINITY, 1.0)]).to_png(), Err(PlotError::Empty(title)) if title == "Accuracy"));
    }
}
