//! `bignas openapi`: the description of the HTTP interface.

pub(super) fn run() -> anyhow::Result<()> {
    println!("{}", crate::serve::openapi().to_pretty_json()?);
    Ok(())
}
