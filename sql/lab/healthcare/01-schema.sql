-- The application of the lab: a clinic. Eight tables, six indexes.
-- Runs in one transaction; a second run changes nothing.

create extension if not exists pgcrypto;

create table if not exists medical_facilities (
    facility_id   uuid primary key,
    facility_name text not null,
    facility_type text not null,
    address_line1 text not null,
    city          text not null,
    state         text not null,
    zip_code      text not null,
    phone_number  text
);

create table if not exists healthcare_providers (
    provider_id     uuid primary key,
    license_number  text not null unique,
    first_name      text not null,
    last_name       text not null,
    specialty       text,
    department      text,
    phone_number    text,
    email           text,
    office_location text,
    facility_id     uuid references medical_facilities
);

create table if not exists patients (
    patient_id              uuid primary key default gen_random_uuid(),
    medical_record_number   text not null unique,
    first_name              text not null,
    last_name               text not null,
    date_of_birth           date,
    gender                  text,
    blood_type              text,
    phone_number            text,
    email                   text,
    emergency_contact_name  text,
    emergency_contact_phone text,
    address_line1           text,
    city                    text,
    state                   text,
    zip_code                text,
    insurance_provider      text,
    insurance_policy_number text
);

create table if not exists appointments (
    appointment_id   uuid primary key default gen_random_uuid(),
    patient_id       uuid not null references patients,
    provider_id      uuid not null references healthcare_providers,
    facility_id      uuid not null references medical_facilities,
    appointment_date date not null,
    appointment_time time not null,
    duration_minutes integer,
    appointment_type text,
    status           text,
    chief_complaint  text
);

create table if not exists medical_records (
    record_id                  uuid primary key default gen_random_uuid(),
    patient_id                 uuid not null references patients,
    provider_id                uuid not null references healthcare_providers,
    appointment_id             uuid references appointments,
    record_date                date not null,
    record_time                time,
    chief_complaint            text,
    history_of_present_illness text,
    physical_examination       text,
    assessment_and_plan        text,
    diagnosis_codes            text[] default '{}',
    procedure_codes            text[] default '{}',
    vital_signs                jsonb
);

create table if not exists prescriptions (
    prescription_id   uuid primary key default gen_random_uuid(),
    patient_id        uuid not null references patients,
    provider_id       uuid not null references healthcare_providers,
    medical_record_id uuid references medical_records,
    medication_name   text not null,
    dosage            text,
    frequency         text,
    quantity          integer,
    refills_allowed   integer,
    refills_remaining integer,
    prescribed_date   date,
    status            text,
    pharmacy_name     text
);

create table if not exists lab_results (
    lab_result_id     uuid primary key default gen_random_uuid(),
    patient_id        uuid not null references patients,
    provider_id       uuid not null references healthcare_providers,
    medical_record_id uuid references medical_records,
    test_name         text not null,
    test_code         text,
    result_value      text,
    reference_range   text,
    unit_of_measure   text,
    abnormal_flag     text,
    test_date         date,
    result_date       date,
    lab_name          text
);

create table if not exists audit_log (
    audit_id   bigserial primary key,
    event_time timestamptz default now(),
    actor      text,
    action     text,
    context    jsonb
);

create index if not exists idx_patients_last_name on patients (last_name);
create index if not exists idx_appointments_patient on appointments (patient_id);
create index if not exists idx_appointments_provider on appointments (provider_id);
create index if not exists idx_medical_records_patient on medical_records (patient_id);
create index if not exists idx_prescriptions_patient on prescriptions (patient_id);
create index if not exists idx_lab_results_patient on lab_results (patient_id);

comment on table patients is 'read often, by number and by name; written rarely';
comment on table appointments is 'read and written all day';
comment on table lab_results is 'written in batches, read for the last 90 days';
comment on table audit_log is 'only ever appended to';
