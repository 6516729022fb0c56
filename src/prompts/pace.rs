//! Bounds of rendering: how long a prompt may become, and how much work it may be.
//!
//! A few lines of template with loops in each other are hours of work for a few kilobytes of variables, and the thread
//! that renders serves other callers. The engine itself knows no bounds but hands on what is written. So templates get
//! steps of ours among their elements, which write nothing, and what takes the text counts them.

use std::io::{Error, Result, Write};
use std::time::{Duration, Instant};

use handlebars::template::{HelperTemplate, TemplateElement};
use handlebars::{Context, Handlebars, Helper, HelperDef, HelperResult, Output, RenderContext, Template};
use rustix::time::{ClockId, clock_gettime};

/// The longest text that a prompt may become.
const MOST_BYTES: usize = 4 * 1024 * 1024;
/// What is written, and steps between: some dozens of milliseconds.
const MOST_STEPS: u32 = 100_000;
/// Single elements may be much work, where variables are large. Of processor time: others' load is not the caller's.
const MOST_TIME: Duration = Duration::from_millis(100);
/// So many steps are done before the clock is looked at: most prompts have no more.
const STEPS_WITHOUT_A_LOOK: u32 = 16;
/// So many elements of a template are rendered between two steps.
const ELEMENTS_A_STEP: usize = 32;

/// The name of our step. No variable has such a name.
const STEP: &str = "$step$";

/// Puts steps among the elements of a template: at its beginning, at that of every loop, and at intervals.
pub(super) fn pace(template: &mut Template) {
    if let Ok(step) = Template::compile(&format!("{{{{{STEP}}}}}"))
        && let Some(step) = step.elements.first()
    {
        put_steps(template, step, true);
    }
}

fn put_steps(template: &mut Template, step: &TemplateElement, begins: bool) {
    let elements = std::mem::take(&mut template.elements);
    let mut mapping = std::mem::take(&mut template.mapping).into_iter();
    if begins && elements.is_empty() {
        template.elements.push(step.clone());
    }
    for (index, mut element) in elements.into_iter().enumerate() {
        let place = mapping.next();
        if index % ELEMENTS_A_STEP == 0 && (begins || index > 0) {
            template.elements.push(step.clone());
            template.mapping.extend(place.clone());
        }
        match &mut element {
            TemplateElement::HelperBlock(helper) => put_steps_in(helper, step),
            TemplateElement::DecoratorBlock(decorator) => {
                decorator.template.iter_mut().for_each(|template| put_steps(template, step, true));
            }
            _ => {}
        }
        template.elements.push(element);
        template.mapping.extend(place);
    }
}

fn put_steps_in(helper: &mut HelperTemplate, step: &TemplateElement) {
    let repeats = helper.name.as_name() == Some("each");
    helper.template.iter_mut().for_each(|template| put_steps(template, step, repeats));
    helper.inverse.iter_mut().for_each(|template| put_steps(template, step, false));
}

/// Makes an engine know our step.
pub(super) fn register(engine: &mut Handlebars<'static>) {
    engine.register_helper(STEP, Box::new(Step));
}

struct Step;

impl HelperDef for Step {
    fn call<'reg: 'rc, 'rc>(
        &self,
        _: &Helper<'rc>,
        _: &'reg Handlebars<'reg>,
        _: &'rc Context,
        _: &mut RenderContext<'reg, 'rc>,
        out: &mut dyn Output,
    ) -> HelperResult {
        Ok(out.write("")?)
    }
}

/// Takes a text that is rendered, within the bounds.
#[derive(Default)]
pub(super) struct Bounded {
    text: Vec<u8>,
    steps: u32,
    /// The time of the first look, and what this thread had worked by then.
    began: Option<(Instant, Duration)>,
}

impl Bounded {
    /// What was rendered.
    pub(super) fn into_text(self) -> String {
        // Only whole texts were written.
        String::from_utf8(self.text).unwrap_or_default()
    }

    fn count(&mut self) -> Result<()> {
        self.steps += 1;
        if self.steps > MOST_STEPS || self.steps > STEPS_WITHOUT_A_LOOK && self.is_late() {
            return Err(Error::other("it is too much work"));
        }
        Ok(())
    }

    fn is_late(&mut self) -> bool {
        let (began, before) = *self.began.get_or_insert_with(|| (Instant::now(), worked()));
        // What this thread has worked costs more to know than the time.
        began.elapsed() > MOST_TIME && worked().saturating_sub(before) > MOST_TIME
    }
}

/// The processor time of this thread.
fn worked() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

impl Write for Bounded {
    fn write(&mut self, text: &[u8]) -> Result<usize> {
        self.write_all(text).map(|()| text.len())
    }

    /// The engine writes by this alone. An empty text is a step.
    fn write_all(&mut self, text: &[u8]) -> Result<()> {
        self.count()?;
        if self.text.len() + text.len() > MOST_BYTES {
            return Err(Error::other("it is too long"));
        }
        self.text.extend_from_slice(text);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        Ok(())
    }
}
