//! Which failure of the engine, of an image or of the framework is which problem.

use axum::extract::rejection::{PathRejection, QueryRejection};

use super::{ApiError, Code};
use crate::engine::{AddError, BuildError, ClassifyError, PictureError, RemoveError, ResolveError};
use crate::image::DecodeError;
use crate::serve::wire::Smallest;

impl From<ResolveError> for ApiError {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Budget { mflops, params, latency_ms } => {
                let mut problem = Self::new(Code::BudgetTooSmall, error.to_string());
                problem.0.smallest = Some(Smallest { mflops, params, latency_ms });
                problem
            }
            ResolveError::Accuracy { best, .. } => {
                let mut problem = Self::new(Code::AccuracyOutOfReach, error.to_string());
                problem.0.best_accuracy = best;
                problem
            }
            ResolveError::Unmeasured => Self::new(Code::NotReady, error.to_string()),
        }
    }
}

impl From<ClassifyError> for ApiError {
    fn from(error: ClassifyError) -> Self {
        match error {
            ClassifyError::Unknown(_) => Self::new(Code::UnknownChild, error.to_string()),
            ClassifyError::Overloaded { retry_after_s } => {
                let mut problem = Self::new(Code::Overloaded, error.to_string());
                problem.0.retry_after_s = Some(retry_after_s);
                problem
            }
            ClassifyError::Picture { ref source, .. } => match **source {
                PictureError::Decode(DecodeError::TooLarge { .. }) => Self::of(Code::ImageTooLarge, error),
                PictureError::Decode(_) => Self::of(Code::InvalidImage, error),
                PictureError::Shape(_) => Self::internal(error),
            },
            ClassifyError::TooLate => Self::new(Code::DeadlineExceeded, error.to_string()),
            ClassifyError::ShuttingDown => Self::new(Code::ShuttingDown, error.to_string()),
            ClassifyError::Build(error) => error.into(),
            ClassifyError::Runtime(_) | ClassifyError::WorkerLost => Self::of(Code::Internal, error),
        }
    }
}

impl From<BuildError> for ApiError {
    fn from(error: BuildError) -> Self {
        if let BuildError::Busy { retry_after_s, .. } = error {
            let mut problem = Self::new(Code::Overloaded, error.to_string());
            problem.0.retry_after_s = Some(retry_after_s);
            return problem;
        }
        let code = match error {
            BuildError::NoCalibration(_) => Code::NoCalibration,
            _ => Code::BuildFailed,
        };
        Self::of(code, error)
    }
}

impl From<AddError> for ApiError {
    fn from(error: AddError) -> Self {
        match error {
            AddError::Outside(_) => Self::new(Code::OutsideSpace, error.to_string()),
            AddError::Full { .. } => Self::new(Code::TooManyChildren, error.to_string()),
            AddError::Build(error) => error.into(),
        }
    }
}

impl From<RemoveError> for ApiError {
    fn from(error: RemoveError) -> Self {
        let code = match error {
            RemoveError::Unknown(_) => Code::UnknownChild,
            RemoveError::Family(_) => Code::FamilyMember,
        };
        Self::new(code, error.to_string())
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(Code::InvalidRequest, rejection.body_text())
    }
}

impl From<PathRejection> for ApiError {
    fn from(rejection: PathRejection) -> Self {
        Self::new(Code::UnknownRoute, rejection.body_text())
    }
}
